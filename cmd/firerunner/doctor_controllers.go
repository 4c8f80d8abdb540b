package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/peers"
)

// siteClockLimit is how far this machine's clock and the database's may differ. Deadlines are counted by the database's,
// but shims end their microVMs by the machine's, certificates hold by it, and logs have it.
const siteClockLimit = 3 * time.Second

// controllers looks who else serves the site. On SQLite there is nobody else; where there are no tables that this program
// knows, what is to do is said by the check of the database.
func (e *examination) controllers(ctx context.Context) []finding {
	if e.cfg.Database == "" || e.cfg.SQLitePath() != "" {
		return nil
	}
	db := databaseOf(e.cfg, slog.New(slog.DiscardHandler))
	seen, err := db.inspect(ctx)
	if err != nil || seen.standby || seen.Version < seen.Newest || seen.Version > seen.Newest+1 {
		return nil
	}
	found := []finding{clockOfSite(seen.ahead)}
	store, err := db.open(ctx)
	if err != nil {
		return append(found, failing(err, "correct the key database"))
	}
	defer store.Close()
	all, err := peers.See(ctx, store, store)
	if err != nil {
		return append(found, failing(err, "is the database well?"))
	}
	runners, err := runnersBy(ctx, store)
	if err != nil {
		return append(found, failing(err, "is the database well?"))
	}
	found = append(found, e.whoServes(all))
	if f, ok := e.sameName(all); ok {
		found = append(found, f)
	}
	return append(found, whoIsAway(all, runners)...)
}

// clockOfSite judges how far this machine's clock is ahead of the database's.
func clockOfSite(ahead time.Duration) finding {
	if ahead.Abs() <= siteClockLimit {
		return finding{Verdict: good, Found: fmt.Sprintf("this machine's clock is as the database's, to %v", max(ahead.Abs().Round(time.Second), time.Second))}
	}
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	return finding{
		Verdict: warn,
		Found:   fmt.Sprintf("this machine's clock is %v %s the database's, which is the site's; shims, certificates and logs go by the machine's", ahead.Abs().Round(time.Second), way),
		Remedy:  "set the clocks of both machines (systemd-timesyncd, chrony)",
	}
}

// whoServes names those that are there, and their versions if these differ.
func (e *examination) whoServes(all []peers.Seen) finding {
	var names, versions []string
	leads := ""
	for _, s := range all {
		if s.State != peers.Leads && s.State != peers.Serves {
			continue
		}
		if s.State == peers.Leads {
			leads = ", " + nameOf(s.Name) + " leads"
		}
		names = append(names, nameOf(s.Name))
		if !slices.Contains(versions, s.Version) {
			versions = append(versions, s.Version)
		}
	}
	if len(names) == 0 {
		return finding{Verdict: good, Found: "nobody serves this database now"}
	}
	f := finding{Verdict: good, Found: strings.Join(names, ", ") + " " + map[bool]string{true: "serves", false: "serve"}[len(names) == 1] + leads}
	switch mine := buildVersion(); {
	case len(versions) > 1:
		f.Verdict, f.Remedy = warn, "finish the upgrade, one controller at a time: versions one apart work together, and no others"
	case versions[0] != mine:
		versions = append(versions, mine+" (this program)")
		f.Verdict, f.Remedy = warn, "start the daemon of this machine again with this program, or run doctor with the daemon's"
	}
	if len(versions) > 1 {
		f.Found += "; their versions differ: " + strings.Join(versions, ", ")
	}
	return f
}

// sameName reports whether another process has the lease of the controller of this configuration. A process of this state
// folder bears the folder's mark.
func (e *examination) sameName(all []peers.Seen) (finding, bool) {
	mark, err := os.ReadFile(filepath.Join(e.cfg.StateDir, controllerMark))
	if err != nil && !os.IsNotExist(err) {
		return finding{}, false // another user's
	}
	for _, s := range all {
		if s.Name == controllerNameOf(e.cfg) && (s.State == peers.Leads || s.State == peers.Serves) && s.Holder != strings.TrimSpace(string(mark)) {
			return finding{
				Verdict: fail, Found: fmt.Sprintf("another process serves as controller %q: %s, on %s", s.Name, s.Holder, s.Machine),
				Remedy: "give this one another name: controller.name",
			}, true
		}
	}
	return finding{}, false
}

// whoIsAway names those for whom nobody acts and of whom runners are left, and those that are stood in for.
func whoIsAway(all []peers.Seen, runners map[string]int) []finding {
	var found []finding
	for _, s := range all {
		n := runners[s.Name]
		delete(runners, s.Name)
		switch {
		case s.State == peers.StoodInFor:
			found = append(found, finding{
				Verdict: warn, Found: fmt.Sprintf("controller %q (%s) is away, and %s stands in for it: %d live runners", s.Name, s.Machine, nameOf(s.By), n),
				Remedy: "start it again, or let its last runners end",
			})
		case s.State == peers.Away && n > 0:
			found = append(found, awayWith(s.Controller, n))
		}
	}
	for name, n := range runners { // of nobody who is registered
		found = append(found, awayWith(firerunner.Controller{Name: name, Machine: "not registered"}, n))
	}
	slices.SortFunc(found, func(a, b finding) int { return strings.Compare(a.Found, b.Found) })
	return found
}

func awayWith(c firerunner.Controller, runners int) finding {
	return finding{
		Verdict: warn, Found: fmt.Sprintf("controller %q (%s) is away, and %d live runners bear its name", c.Name, c.Machine, runners),
		Remedy: "start it again, or one that has its hosts; until then its runners only end at their deadlines",
	}
}
