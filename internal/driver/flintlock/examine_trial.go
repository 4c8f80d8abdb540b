package flintlock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/proto/flintlock/types"
)

// trialNamespace is where trials are: no daemon takes them for one of its microVMs, and an operator sees what they are.
const trialNamespace = "fr-doctor"

// trialLife is how long a guest of a trial may live, should nobody be left to remove it.
const trialLife = time.Hour

// TrialSpec is a microVM to try a host with. ID and Image have to be set.
type TrialSpec struct {
	ID    string // 1 to 31 of a-z, 0-9 and -
	Image firerunner.Image
	// GuestURL and GuestFingerprint are where its guest calls, and Token is what it shows there; empty: its guest calls
	// nobody.
	GuestURL, GuestFingerprint string
	Token                      firerunner.Secret
	Address                    firerunner.GuestNetwork // zero: its network gives it one
}

// Trial is a microVM that a host has made to be looked at.
type Trial struct {
	Took time.Duration // until the host said that its process was started
	x    *Examination
	uid  string
}

// Try has the host make the smallest microVM of an image, and returns once the host says that its process was started:
// it can pull, and has a disk and a bridge. That says nothing of its guest. After an error nothing is left, unless the
// error says so.
func (x *Examination) Try(ctx context.Context, spec TrialSpec) (*Trial, error) {
	cfg := x.cfg
	cfg.Namespace = trialNamespace
	cfg.GuestURL = cmp.Or(spec.GuestURL, "192.0.2.1:1") // nobody's
	cfg.GuestFingerprint = cmp.Or(spec.GuestFingerprint, "sha256:"+strings.Repeat("0", 64))
	host := x.daemon.Host
	host.GuestURL = ""
	if !nameForm.MatchString(spec.ID) {
		return nil, firerunner.Errorf(firerunner.Invalid, "flintlock: id %.80q is not 1 to 31 of a-z, 0-9 and -", spec.ID)
	}
	request, err := cfg.request(host, firerunner.MicroVMSpec{
		ID: spec.ID, Host: host.Name, Image: spec.Image, Address: spec.Address,
		Size: firerunner.Size{VCPUs: 1, MemoryMiB: minMemoryMiB}, Deadline: cfg.Now().Add(trialLife),
	}, cmp.Or(spec.Token, firerunner.Secret(spec.ID)))
	if err == nil {
		err = rules{stateDir: host.stateDir(), tags: cfg.AllowTags}.validate(request)
	}
	if err != nil {
		return nil, err
	}
	const doing = "making a microVM"
	began := time.Now()
	uid, err := x.daemon.create(ctx, request)
	if err != nil {
		return nil, x.daemon.fault(err, doing)
	}
	t := &Trial{x: x, uid: uid}
	err = x.until(ctx, uid, doing, func(vm *types.MicroVM, there bool) (bool, error) {
		s := vm.GetStatus()
		switch {
		case !there:
			return false, fmt.Errorf("somebody else removed it")
		case s.GetState() == types.MicroVMStatus_FAILED || s.GetRetry() > 0:
			return false, fmt.Errorf("the host could not make it, and would try again")
		}
		return s.GetState() == types.MicroVMStatus_CREATED, nil
	})
	t.Took = time.Since(began)
	if err != nil {
		return nil, errors.Join(err, t.Remove(ctx))
	}
	return t, nil
}

// Remove has the host delete it and waits until it is gone, even where the context has ended.
func (t *Trial) Remove(ctx context.Context) error {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.x.cfg.DestroyTimeout)
	defer cancel()
	doing := "removing the microVM " + t.uid + " of the examination"
	if err := t.x.daemon.remove(clean, t.uid); err != nil {
		return t.x.daemon.fault(err, doing)
	}
	return t.x.until(clean, t.uid, doing, func(_ *types.MicroVM, there bool) (bool, error) { return !there, nil })
}
