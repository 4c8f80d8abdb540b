package qemu

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/reportlog"
)

// How the daemon asks shims.
const (
	stateWait    = 2 * time.Second
	asksAtOnce   = 16
	followPause  = 50 * time.Millisecond // between two looks at a shim that does not answer
	reportsTwice = 2                     // a shim that tells more than twice the limit of reports is broken
)

// List returns every microVM and what is left of dead ones. See firerunner.Driver.
func (d *Driver) List(ctx context.Context) ([]firerunner.MicroVM, error) {
	ids, err := d.vms.known()
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "qemu: listing microVMs: %w", err)
	}
	for _, id := range d.cgroups.known() {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	vms := make([]firerunner.MicroVM, len(ids))
	asks, asking := errgroup.WithContext(ctx)
	asks.SetLimit(asksAtOnce)
	for i, id := range ids {
		asks.Go(func() error {
			rec, _ := d.vms.readRecord(id)
			rec.Host = or(rec.Host, d.cfg.Host) // where a crash left it without a record
			vms[i] = rec.microVM(d.alive(asking, rec))
			return asking.Err()
		})
	}
	if err := asks.Wait(); err != nil {
		return nil, err
	}
	// One may have gone while we asked the others.
	vms = slices.DeleteFunc(vms, func(vm firerunner.MicroVM) bool { return !d.vms.exists(vm.ID) && !d.cgroups.exists(vm.ID) })
	strays, err := d.strays()
	if err != nil {
		return nil, firerunner.Errorf(firerunner.Unavailable, "qemu: listing microVMs: %w", err)
	}
	for _, id := range strays {
		vms = append(vms, firerunner.MicroVM{ID: id, Host: d.cfg.Host})
	}
	slices.SortFunc(vms, func(a, b firerunner.MicroVM) int { return strings.Compare(a.ID, b.ID) })
	return vms, nil
}

// alive reports whether the microVM of a record runs, or is being made now. A shim that lives and does not
// answer is believed to have its microVM, unless it has written the last word on it: then it is about to end.
func (d *Driver) alive(ctx context.Context, rec record) bool {
	if rec.Phase == phaseDestroying {
		return false
	}
	if rec.Phase == phaseMaking && d.vms.held(rec.ID) {
		return true
	}
	if !running(rec) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, stateWait)
	defer cancel()
	s, err := newShimClient(d.vms.socket(rec.ID), rec.UID).state(ctx)
	if err != nil {
		return running(rec) && !d.vms.saidExited(rec.ID)
	}
	return s.Started && !s.Ended
}

// saidExited reports whether a shim has written how its microVM ended.
func (f folder) saidExited(id string) bool {
	file, err := f.open(id, reportsFile)
	if err != nil {
		return false
	}
	defer file.Close()
	exited := false
	_ = reportlog.Read(file, 0, func(r firerunner.GuestReport) error {
		exited = r.Kind == firerunner.ReportExited
		return nil
	})
	return exited
}

// running reports whether a record's shim lives.
func running(rec record) bool {
	p, err := openProcess(rec.PID, rec.PIDStart)
	if err != nil || p == nil {
		return false
	}
	defer p.close()
	return !p.ended()
}

// Follow calls report for each guest report. See firerunner.Driver. Reports come from the shim, and once that is
// gone from the file that it wrote; if it died before it could write how the microVM ended, that it did is said
// here.
func (d *Driver) Follow(ctx context.Context, id string, after int64, report func(firerunner.GuestReport) error) error {
	if err := checkID(id); err != nil {
		return err
	}
	f := follower{after: after, limit: int64(d.cfg.ReportCount) * reportsTwice, report: report}
	pause := time.NewTicker(followPause)
	defer pause.Stop()
	for {
		rec, ok := d.vms.readRecord(id)
		if !ok {
			return firerunner.Errorf(firerunner.NotFound, "qemu: there is no microVM %s", id)
		}
		// Whether it runs is asked before its reports: what is missing then will never come.
		lives := running(rec) || (rec.Phase == phaseMaking && d.vms.held(id))
		err := f.live(ctx, newShimClient(d.vms.socket(id), rec.UID))
		if !lives && !f.exited && f.refused == nil && ctx.Err() == nil {
			err = f.dead(d.vms, id)
			if errors.Is(err, fs.ErrNotExist) && !d.vms.exists(id) {
				continue // destroyed meanwhile
			}
		}
		switch {
		case f.refused != nil:
			return f.refused
		case f.exited:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case firerunner.CodeOf(err) == firerunner.Invalid:
			return err
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follower is how far one Follow is.
type follower struct {
	after   int64
	limit   int64
	report  func(firerunner.GuestReport) error
	exited  bool
	refused error // what report returned
}

func (f *follower) take(r firerunner.GuestReport) error {
	if r.Seq <= f.after {
		return nil
	}
	if r.Seq > f.limit {
		return firerunner.Errorf(firerunner.Invalid, "qemu: a shim tells more than %d reports", f.limit)
	}
	if f.refused = f.report(r); f.refused != nil {
		return f.refused
	}
	f.after, f.exited = r.Seq, r.Kind == firerunner.ReportExited
	if f.exited {
		return io.EOF // nothing follows, whatever the shim says
	}
	return nil
}

// live takes reports from the shim until its stream ends.
func (f *follower) live(ctx context.Context, shim *shimClient) error {
	body, err := shim.call(ctx, "GET", "reports?"+url.Values{"after": {strconv.FormatInt(f.after, 10)}}.Encode())
	if err != nil {
		return err
	}
	defer body.Close()
	return reportlog.Read(body, f.after, f.take)
}

// dead takes what a shim that is gone has left, and the last word if it has not said it.
func (f *follower) dead(vms folder, id string) error {
	last, at := int64(0), time.Time{}
	file, err := vms.open(id, reportsFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !vms.exists(id) {
			return err
		}
	case err != nil:
		return firerunner.Errorf(firerunner.Invalid, "qemu: reading the reports of %s: %w", id, err)
	default:
		defer file.Close()
		if info, err := file.Stat(); err == nil {
			at = info.ModTime()
		}
		err := reportlog.Read(file, 0, func(r firerunner.GuestReport) error {
			last = r.Seq
			return f.take(r)
		})
		if f.exited || f.refused != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
	message := "the shim of the microVM ended without a word, and the microVM with it"
	if !vms.started(id) {
		message = "the microVM was never started"
	}
	return f.take(firerunner.GuestReport{
		Seq: max(last, f.after) + 1, At: at, Kind: firerunner.ReportExited, ExitCode: -1, Message: message,
	})
}

// Order passes an order to the guest. See firerunner.Driver.
func (d *Driver) Order(ctx context.Context, id string, order firerunner.GuestOrder) error {
	if err := checkID(id); err != nil {
		return err
	}
	rec, ok := d.vms.readRecord(id)
	if !ok {
		return firerunner.Errorf(firerunner.NotFound, "qemu: there is no microVM %s", id)
	}
	return newShimClient(d.vms.socket(id), rec.UID).post(ctx, "order?"+url.Values{"name": {string(order)}}.Encode())
}

// Console returns what is kept of the guest's console so far. See firerunner.Console.
func (d *Driver) Console(_ context.Context, id string) (io.ReadCloser, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	file, err := d.vms.open(id, consoleFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, firerunner.Errorf(firerunner.NotFound, "qemu: there is no console of microVM %s", id)
	}
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(file, d.cfg.ConsoleBytes+1024), file}, nil
}
