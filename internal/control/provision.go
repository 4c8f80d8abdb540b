package control

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/firerunner/firerunner"
)

// provision makes credential and microVM: Placed → Creating → Booting. The credential is in memory only, so a crash
// between the two throws the GitLab runner away and makes another; a crash after the microVM was made finds it by its
// ID.
func (c *Control) provision(ctx context.Context, r firerunner.Runner) error {
	if r.Desired == firerunner.Unwanted {
		return c.abandon(ctx, r.ID, firerunner.OwnerProvision)
	}
	if r.GitLabID != 0 { // this was tried before, perhaps long ago: its guest may have done its job meanwhile
		made, err := c.exists(ctx, r)
		if err != nil {
			return fmt.Errorf("looking for microVM %s: %w", r.ID, err)
		}
		if made {
			return c.accepted(ctx, r.ID, "the microVM was there already")
		}
	}
	before, cancel := c.beforeDeadline(ctx, r)
	defer cancel()
	image, err := c.Image(before, c.imageOf(r))
	if err != nil {
		return c.reject(ctx, r.ID, firerunner.ReasonCreateFailed, err)
	}
	network, err := c.network(before, r)
	if err != nil {
		return err
	}
	var cred firerunner.Credential
	begun, err := c.begin(before, &r, image)
	if err == nil && begun {
		ctx, cancel = c.beforeDeadline(ctx, r) // that of creating
		defer cancel()
		cred, err = c.credential(ctx, &r)
	}
	switch firerunner.CodeOf(err) {
	case "":
	case firerunner.Unavailable, firerunner.Exhausted, firerunner.Conflict:
		return err // the queue tries again until the deadline ends it
	default:
		return c.reject(ctx, r.ID, firerunner.ReasonCredential, err)
	}
	if !begun {
		return nil
	}
	if r.Desired == firerunner.Unwanted { // meanwhile: no guest may get that credential, for it could still take a job
		return c.abandon(ctx, r.ID, firerunner.OwnerProvision)
	}
	if _, err := c.Driver.Create(ctx, c.spec(r, image, network, cred)); err != nil {
		return c.notCreated(ctx, r, err)
	}
	return c.accepted(ctx, r.ID, "image "+image.Name)
}

// notCreated ends a runner whose microVM its driver did not make, or did not say that it made: then its guest may have the
// credential, and a job. Where GitLab cannot say, the next try looks whether the microVM is there.
func (c *Control) notCreated(ctx context.Context, r firerunner.Runner, cause error) error {
	if firerunner.CodeOf(cause) == firerunner.Unavailable {
		made, err := c.exists(ctx, r)
		switch {
		case err != nil:
			return errors.Join(cause, err)
		case made:
			return c.accepted(ctx, r.ID, "the driver did not say so, and the microVM is there")
		}
	}
	has, err := c.hasJob(ctx, r)
	switch {
	case err != nil:
		return errors.Join(cause, err)
	case has:
		return c.accepted(ctx, r.ID, "the driver did not say so, and its guest has a job")
	}
	return c.reject(ctx, r.ID, firerunner.ReasonCreateFailed, cause)
}

// exists reports whether the microVM was made already, even if it has ended since: then its reports say what it did. That
// another host does not answer says nothing about this one's.
func (c *Control) exists(ctx context.Context, r firerunner.Runner) (bool, error) {
	vms, err := c.Driver.List(ctx)
	for _, vm := range vms {
		if vm.ID == r.ID {
			return true, nil
		}
	}
	if err == nil || c.prober == nil {
		return false, err
	}
	hosts, readErr := c.Store.Hosts(ctx)
	if readErr != nil {
		return false, errors.Join(err, readErr)
	}
	for _, h := range hosts {
		if h.Name == r.Host && h.Trouble == "" && !h.Lost {
			return false, nil
		}
	}
	return false, err
}

// beforeDeadline ends somewhat after the runner's deadline: expire acts first.
func (c *Control) beforeDeadline(ctx context.Context, r firerunner.Runner) (context.Context, context.CancelFunc) {
	if r.Deadline.IsZero() {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, r.Deadline.Add(5*time.Second).Sub(c.Now()))
}

// begin writes down what is about to be done: a GitLab runner is asked for, and from then on a microVM may boot the image. If
// we are killed in the call to GitLab, the next try knows that it must look for an orphan; what an earlier try left there is
// deleted first, because its token is lost. It reports whether the runner is still to be made.
func (c *Control) begin(ctx context.Context, r *firerunner.Runner, image firerunner.Image) (begun bool, err error) {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	if err := c.deleteOrphans(callCtx, *r); err != nil {
		return false, err
	}
	err = c.update(ctx, func(ch *change) error {
		begun = false
		fresh, err := ch.Runner(ctx, r.ID)
		if err != nil || fresh.State > firerunner.Creating {
			return err
		}
		fresh.GitLabID, fresh.Image = asked, image.Digest
		switch {
		case fresh.State == firerunner.Creating:
			err = ch.SaveRunner(ctx, &fresh)
		case fresh.Desired == firerunner.Unwanted:
			return nil // the step that this enqueued sees to it
		default:
			err = c.move(ctx, ch, &fresh, firerunner.Creating, firerunner.OwnerProvision, "")
		}
		*r, begun = fresh, err == nil
		return err
	})
	return begun && err == nil, err
}

// credential makes the runner in GitLab.
func (c *Control) credential(ctx context.Context, r *firerunner.Runner) (firerunner.Credential, error) {
	callCtx, cancel := context.WithTimeout(ctx, c.CallTimeout)
	defer cancel()
	cred, err := c.GitLab.CreateRunner(callCtx, firerunner.CredentialRequest{
		ProjectID: r.Demand.ProjectID, Tags: r.Demand.Tags, Description: c.description(r.ID),
		MaxTimeout: c.set().Deadlines.JobTimeout,
	})
	if err != nil {
		return firerunner.Credential{}, fmt.Errorf("making a GitLab runner for %s: %w", r.ID, err)
	}
	err = c.update(ctx, func(ch *change) error {
		if err := c.setGitLabID(ctx, ch, r, cred.ID); err != nil {
			return err
		}
		return c.note(ctx, ch, *r, firerunner.EventCredential, "provision", fmt.Sprintf("made runner %d in GitLab", cred.ID))
	})
	return cred, err
}

// asked marks that a GitLab runner was asked for and its id is not known.
const asked int64 = -1

// deleteOrphans removes what earlier tries for this runner left in GitLab.
func (c *Control) deleteOrphans(ctx context.Context, r firerunner.Runner) error {
	switch r.GitLabID {
	case 0:
		return nil
	case asked:
		orphans, err := c.GitLab.FindRunners(ctx, r.Demand.ProjectID, c.description(r.ID))
		if err != nil {
			return fmt.Errorf("looking for orphans of %s in GitLab: %w", r.ID, err)
		}
		for _, o := range orphans {
			if err := c.GitLab.DeleteRunner(ctx, o.ID); err != nil {
				return fmt.Errorf("deleting the orphaned GitLab runner %d of %s: %w", o.ID, r.ID, err)
			}
		}
		return nil
	default:
		if err := c.GitLab.DeleteRunner(ctx, r.GitLabID); err != nil {
			return fmt.Errorf("deleting the GitLab runner %d of %s: %w", r.GitLabID, r.ID, err)
		}
		return nil
	}
}

// setGitLabID writes the id on the newest row; what else changed there meanwhile (desired) is kept.
func (c *Control) setGitLabID(ctx context.Context, ch *change, r *firerunner.Runner, id int64) error {
	fresh, err := ch.Runner(ctx, r.ID)
	if err != nil {
		return err
	}
	fresh.GitLabID = id
	if err := ch.SaveRunner(ctx, &fresh); err != nil {
		return err
	}
	*r = fresh
	return nil
}

// accepted moves the runner to Booting and begins to listen to its guest.
func (c *Control) accepted(ctx context.Context, id, message string) error {
	unwanted := false
	err := c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, id)
		unwanted = r.Desired == firerunner.Unwanted
		if err != nil || r.State != firerunner.Creating {
			return err
		}
		if err := c.move(ctx, ch, &r, firerunner.Booting, firerunner.OwnerProvision, message); err != nil || r.JobID == 0 {
			return err
		}
		r.Deadline = c.jobDeadline(r) // GitLab was faster
		return ch.SaveRunner(ctx, &r)
	})
	if err != nil {
		return err
	}
	c.follow.ensure(id)
	if !unwanted { // where it becomes so now, a step is due for it
		return nil
	}
	return c.abandon(ctx, id, firerunner.OwnerWatch)
}

func (c *Control) reject(ctx context.Context, id string, why firerunner.Reason, cause error) error {
	c.Logger.Warn("could not provision a runner", "runner", id, "reason", why, "error", cause, "hint", firerunner.HintOf(cause))
	c.trials.hint(id, firerunner.HintOf(cause))
	err := c.update(ctx, func(ch *change) error {
		r, err := ch.Runner(ctx, id)
		if err != nil {
			return err
		}
		return c.end(ctx, ch, &r, firerunner.Rejected, why, "provision", withRemedy(cause))
	})
	if err != nil {
		return err
	}
	return c.abandon(ctx, id, firerunner.OwnerProvision)
}

func (c *Control) imageOf(r firerunner.Runner) string {
	p, _ := c.profile(r.Profile)
	return p.Image
}

// network is how the guest sets up its interface, where its host has an address pool.
func (c *Control) network(ctx context.Context, r firerunner.Runner) (firerunner.GuestNetwork, error) {
	if !r.Address.IsValid() {
		return firerunner.GuestNetwork{}, nil
	}
	hosts, err := c.Store.Hosts(ctx)
	if err != nil {
		return firerunner.GuestNetwork{}, fmt.Errorf("reading the address pool of host %s: %w", r.Host, err)
	}
	for _, h := range hosts {
		if h.Name == r.Host && !h.Addresses.Empty() {
			return h.Addresses.Network(r.Address), nil
		}
	}
	return firerunner.GuestNetwork{}, firerunner.Errorf(firerunner.Unavailable, "host %s has no address pool any more, and %s has address %s of it", r.Host, r.ID, r.Address)
}

// spec is all that the driver needs. The token is in it, and nowhere else.
func (c *Control) spec(r firerunner.Runner, image firerunner.Image, network firerunner.GuestNetwork, cred firerunner.Credential) firerunner.MicroVMSpec {
	p, _ := c.profile(r.Profile)
	return firerunner.MicroVMSpec{
		ID: r.ID, Host: r.Host, Size: r.Size, Image: image,
		Network: firerunner.NetworkPolicy{Routes: c.Routes, Public: p.Public},
		Address: network, Provision: p.Provision, SSH: p.SSH,
		Deadline: c.HostNow().Add(c.set().Deadlines.Life()),
		Start: firerunner.GuestStart{
			GitLabURL: c.GuestURL, Token: cred.Token, CA: c.CA, Name: "firerunner-" + r.ID,
			MachineID: machineID(), Hostname: "fr-" + r.ID,
			WaitTimeout: c.waitTimeout(), OutputKiB: c.set().OutputKiB, RunnerID: r.ID, SealTo: c.sealTo(),
		},
	}
}

// waitTimeout is how long gitlab-runner waits for its job: it ends by itself before expire ends it.
func (c *Control) waitTimeout() time.Duration {
	return max(c.set().Deadlines.Ready-10*time.Second, 5*time.Second)
}

// machineID returns 128 fresh random bits: no two microVMs share one, so none shares gitlab-runner's system_id.
func machineID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("reading random bytes: " + err.Error()) // crypto/rand never fails on a supported system
	}
	return hex.EncodeToString(b[:])
}
