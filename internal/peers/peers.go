// Package peers lets several controllers serve one site. Each has a lease, renewed all the time, which is its right to move
// the runners that bear its name; one of them has the site's lease besides, for what is done once for all. Who dies does
// not renew: another takes its lease and stands in for it until nothing of it is left, or until it is back.
//
// Whatever a process believes, the database decides: each write is made under a lease (firerunner.Fence), so that one who
// was suspended or cut off writes nothing any more.
package peers

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/firerunner/firerunner"
)

// Config is what a Keeper works with. Leases, Registry, Self, Holder, Bearers, Left and Lost are required.
type Config struct {
	Leases   firerunner.Leases
	Registry firerunner.Registry
	Self     firerunner.Controller
	// Holder is the process's mark: the same again after a crash, so that it finds its own lease and waits for nothing. No
	// two processes that live have one.
	Holder string

	// Bearers returns the controllers whose names live runners bear.
	Bearers func(ctx context.Context) ([]string, error)
	// Left reports whether anything is left of what a controller was doing.
	Left func(ctx context.Context, controller string) (bool, error)
	// CanStandIn reports whether we can act for a controller: whether we reach its microVMs. Of one that is not registered
	// (any more) only the name is known. nil: for nobody.
	CanStandIn func(firerunner.Controller) bool
	// StandIn begins to act for a controller, under its lease; what it began is ended by GiveBack. Both may be called again
	// after an error.
	StandIn  func(ctx context.Context, controller string) error
	GiveBack func(ctx context.Context, controller string) error
	// Bury takes up, once, what a controller left behind that we cannot stand in for: the steps that it was doing.
	Bury func(ctx context.Context, controller string) error
	// Lost is told once that our own lease is another's: this process must end.
	Lost func(error)
	// Observe is told what came of each renewal of a lease: ok; failed, when the database did not answer in time; lost, when
	// the lease was over. nil: nobody is.
	Observe func(result string)

	TTL    time.Duration // of a lease; default 5 s
	Every  time.Duration // how often it is renewed and the others are looked at; default a fifth of TTL
	Logger *slog.Logger
}

// Keeper keeps a controller's leases. Join makes it and renews from then on, Serve lets it lead and stand in, Leave ends it.
type Keeper struct {
	Config
	clock siteClock

	mu        sync.Mutex
	own, site grip
	standing  map[string]*grip // controllers that we stand in for
	held      map[string]bool  // controllers that somebody acts for, as last seen
	known     []firerunner.Controller
	looked    bool
	healthy   time.Time // until then we may have been cut off ourselves, and the others with us
	buried    map[string]bool
	ended     bool

	life    context.Context // ends with Leave
	cancel  context.CancelFunc
	running sync.WaitGroup
	seeing  context.Context // ends with Rest
	blind   context.CancelFunc
	looking sync.WaitGroup
}

// grip is a lease and until when we are sure to have it, by a clock that no jump moves.
type grip struct {
	firerunner.Lease
	sure   time.Time
	failed bool // we could not begin to stand in, nor end what we had begun of it: that is tried again
}

func (g grip) firm(now time.Time) bool { return g.Epoch != 0 && now.Before(g.sure) }

// claimPrefix begins the names of the leases by which a controller asks for its own back.
const claimPrefix = "claim/"

// Join takes our own lease. Where another stands in for us it is asked to give it back; where another process serves under
// our name it is Conflict, in the end.
func Join(ctx context.Context, c Config) (*Keeper, error) {
	if c.TTL <= 0 {
		c.TTL = 5 * time.Second
	}
	if c.Every <= 0 {
		c.Every = c.TTL / 5
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{Config: c, standing: map[string]*grip{}, held: map[string]bool{}, buried: map[string]bool{}}
	if err := k.join(ctx); err != nil {
		return nil, err
	}
	k.life, k.cancel = context.WithCancel(context.WithoutCancel(ctx))
	k.healthy = time.Now()
	k.seeing, k.blind = context.WithCancel(k.life)
	k.every(&k.running, k.life, "renew the lease", k.renewOwn)
	if err := errors.Join(c.Registry.SaveController(ctx, c.Self), k.lookAround(ctx)); err != nil {
		// Runners of our process before may be left: the lease is over for others to see, not forgotten.
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.TTL)
		defer cancel()
		return nil, errors.Join(err, k.Leave(leaving, false))
	}
	return k, nil
}

// patience is how long Join waits for a lease: longer than one lives, and than a stand-in needs to let go.
func (k *Keeper) patience() time.Duration { return 3*k.TTL + 15*time.Second }

func (k *Keeper) join(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, k.patience())
	defer cancel()
	claimed := firerunner.Lease{}
	defer func() {
		if claimed.Epoch != 0 {
			_ = k.Leases.Release(context.WithoutCancel(ctx), claimed)
		}
	}()
	told := false
	for {
		began := time.Now()
		l, ok, err := k.Leases.Acquire(waiting, firerunner.LeaseOf(k.Self.Name), k.Holder, k.TTL)
		if ok {
			k.told(l, began)
			k.own = grip{Lease: l, sure: began.Add(k.TTL)}
			return nil
		}
		if err != nil && waiting.Err() == nil {
			return err
		}
		if err == nil {
			if !told {
				k.Logger.Info("waiting for the lease of this controller", "controller", k.Self.Name, "held_by", l.Holder)
				told = true
			}
			if c, mine, err := k.Leases.Acquire(waiting, claimPrefix+k.Self.Name, k.Holder, 2*k.TTL); err == nil && mine {
				claimed = c
			}
		}
		select {
		case <-waiting.Done():
			if ctx.Err() != nil {
				return firerunner.Errorf(firerunner.Unavailable, "waiting for the lease of controller %q: %w", k.Self.Name, ctx.Err())
			}
			return firerunner.Errorf(firerunner.Conflict, "another process serves this database as controller %q (%s)", k.Self.Name, l.Holder).
				WithHint("end it, or give this one another name: controller.name")
		case <-time.After(k.Every / 2):
		}
	}
}

// Serve begins to lead, if nobody does, and to stand in for those that are away.
func (k *Keeper) Serve() {
	k.every(&k.running, k.life, "renew the leases of other controllers", k.keepStanding)
	k.every(&k.looking, k.seeing, "renew the lease of the site", k.lead)
	k.every(&k.looking, k.seeing, "look after the other controllers", k.look)
}

// every does something again and again until its context ends. Each kind of lease has a loop of its own: one that waits in
// the database holds up no other.
func (k *Keeper) every(group *sync.WaitGroup, ctx context.Context, doing string, runOnce func(context.Context) error) {
	group.Go(func() {
		tick := time.NewTicker(k.Every)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := runOnce(ctx); err != nil && ctx.Err() == nil {
				k.Logger.Warn("could not "+doing+"; trying again", "in", k.Every, "error", err)
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
}

// look sees who is there, gives back what is asked for, and stands in for who is away.
func (k *Keeper) look(ctx context.Context) error {
	k.mu.Lock()
	ended := k.ended
	k.mu.Unlock()
	if ended {
		return nil
	}
	if err := k.lookAround(ctx); err != nil {
		return err
	}
	return errors.Join(k.giveBack(ctx), k.relieve(ctx))
}

// renewLease is Renew, and says what came of it.
func (k *Keeper) renewLease(ctx context.Context, l firerunner.Lease) (firerunner.Lease, error) {
	next, err := k.Leases.Renew(ctx, l, k.TTL)
	result := "ok"
	switch {
	case firerunner.CodeOf(err) == firerunner.Conflict:
		result = "lost"
	case err != nil:
		result = "failed"
	}
	if k.Observe != nil && !errors.Is(ctx.Err(), context.Canceled) { // otherwise we end
		k.Observe(result)
	}
	return next, err
}

// renew makes a lease last from now on, or takes it again where nobody has taken it meanwhile.
func (k *Keeper) renew(ctx context.Context, g grip, name string) (grip, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, k.TTL)
	defer cancel()
	began := time.Now()
	if g.Epoch != 0 {
		l, err := k.renewLease(ctx, g.Lease)
		switch {
		case err == nil:
			k.told(l, began)
			return grip{Lease: l, sure: began.Add(k.TTL)}, true, nil
		case firerunner.CodeOf(err) != firerunner.Conflict:
			return g, false, err
		}
	}
	l, ok, err := k.Leases.Acquire(ctx, name, k.Holder, k.TTL)
	if err != nil || !ok {
		return g, false, err
	}
	k.told(l, began)
	return grip{Lease: l, sure: began.Add(k.TTL)}, true, nil
}

// renewOwn makes our own lease last from now on. Whoever could not for a while, or was suspended, does not call others dead
// at once: what held us up may have held up them.
func (k *Keeper) renewOwn(ctx context.Context) error {
	k.mu.Lock()
	g, ended := k.own, k.ended
	k.mu.Unlock()
	if ended {
		return nil
	}
	next, ok, err := k.renew(ctx, g, firerunner.LeaseOf(k.Self.Name))
	now := time.Now()
	k.mu.Lock()
	if err != nil || next.sure.Sub(g.sure) > k.TTL/2 || now.Add(k.TTL).Sub(next.sure) > k.TTL/2 {
		k.healthy = now.Add(k.TTL)
	}
	switch {
	case err != nil:
	case ok:
		k.own = next
	default:
		k.own, k.site, k.ended = grip{}, grip{}, true
	}
	k.mu.Unlock()
	if err == nil && !ok {
		k.Lost(firerunner.Errorf(firerunner.Conflict, "the lease of controller %q is another's: this process was taken for dead", k.Self.Name).
			WithHint("start it again: it goes on where the others have come to"))
	}
	return err
}

// calm reports whether what we see of others is to be believed; see renewOwn. Under k.mu.
func (k *Keeper) calm() bool {
	now := time.Now()
	return !now.Before(k.healthy) && k.own.sure.Sub(now) >= k.TTL/2
}

// lead renews the site's lease, or takes it where nobody has it.
func (k *Keeper) lead(ctx context.Context) error {
	k.mu.Lock()
	g, ended := k.site, k.ended
	k.mu.Unlock()
	if ended {
		return nil
	}
	next, ok, err := k.renew(ctx, g, firerunner.SiteLease)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.ended: // meanwhile; whoever is next waits until it is over
		return nil
	case ok && g.Epoch != next.Epoch:
		k.Logger.Info("this controller leads the site", "controller", k.Self.Name)
	case !ok && g.Epoch != 0:
		k.Logger.Warn("another controller leads the site", "controller", k.Self.Name)
	}
	if !ok {
		next = grip{}
	}
	k.site = next
	return nil
}
