package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/store/sqlite/sqlc"
)

// Most that is kept of what one guest reports. Half of it is for notices at most: a guest that floods must still be
// able to say how its job ended.
const (
	reportsMost     = 4096
	reportBytesMost = 1 << 20
	messageMost     = 4 << 10
	failureMost     = 128
	kindMost        = 32
	reportOverhead  = 96 // bytes of a report besides its texts
)

var _ firerunner.Ledger = (*Store)(nil)

// inTx runs do within an Update: one writer at a time, and a commit that survives a crash.
func (s *Store) inTx(ctx context.Context, do func(ctx context.Context, t *tx) error) error {
	return s.Update(ctx, func(tx firerunner.Tx) error {
		t, err := s.own(tx)
		if err != nil {
			return err
		}
		ctx, err := t.within(ctx)
		if err != nil {
			return err
		}
		return do(ctx, t)
	})
}

func (s *Store) own(any firerunner.Tx) (*tx, error) {
	t, ok := any.(*tx)
	if !ok {
		return nil, firerunner.Errorf(firerunner.Internal, "the store's transaction is a %T", any)
	}
	return t, nil
}

// SaveVM implements firerunner.Ledger.
func (s *Store) SaveVM(ctx context.Context, vm firerunner.LedgerVM) error {
	return s.inTx(ctx, func(ctx context.Context, t *tx) error {
		return wrap(t.q.VMUpsert(ctx, sqlc.VMUpsertParams{
			ID: vm.ID, Driver: vm.Driver, Host: vm.Host, Ref: vm.Ref, Token: vm.Token[:], Session: vm.Session[:],
			UsedAt: micros(vm.UsedAt), CreatedAt: micros(vm.CreatedAt), Deadline: micros(vm.Deadline),
		}), "save microVM %q", vm.ID)
	})
}

// VM implements firerunner.Ledger.
func (s *Store) VM(ctx context.Context, id string) (firerunner.LedgerVM, error) {
	row, err := s.q.VM(ctx, id)
	if err != nil {
		return firerunner.LedgerVM{}, wrap(err, "read microVM %q", id)
	}
	return vmFromRow(row), nil
}

// VMs implements firerunner.Ledger.
func (s *Store) VMs(ctx context.Context, driver string) ([]firerunner.LedgerVM, error) {
	return ask(ctx, s.reader, "microVMs", func(ctx context.Context) ([]sqlc.VM, error) { return s.q.VMsOf(ctx, driver) }, vmFromRow)
}

// UseToken implements firerunner.Ledger. One statement decides, in one transaction at a time.
func (s *Store) UseToken(ctx context.Context, id string, session [32]byte, at time.Time) (first bool, err error) {
	if at.IsZero() {
		return false, firerunner.Errorf(firerunner.Invalid, "use the token of microVM %q: no time is given", id)
	}
	err = s.inTx(ctx, func(ctx context.Context, t *tx) error {
		n, err := t.q.VMUseToken(ctx, sqlc.VMUseTokenParams{Session: session[:], UsedAt: micros(at), ID: id})
		if err != nil {
			return wrap(err, "use the token of microVM %q", id)
		}
		if first = n == 1; first {
			return nil
		}
		_, err = t.q.VM(ctx, id)
		return wrap(err, "use the token of microVM %q", id)
	})
	return first && err == nil, err
}

// AddReport implements firerunner.Ledger.
func (s *Store) AddReport(ctx context.Context, id string, number int64, r firerunner.GuestReport) (added bool, err error) {
	if number < 0 || len(r.Kind) > kindMost || number > 0 && r.Kind == firerunner.ReportExited {
		return false, firerunner.Errorf(firerunner.Invalid, "report %d of microVM %q: a guest cannot say %.32q", number, id, r.Kind)
	}
	err = s.inTx(ctx, func(ctx context.Context, t *tx) (err error) {
		added, err = s.addReport(ctx, t, id, number, r)
		return err
	})
	return added && err == nil, err
}

func (s *Store) addReport(ctx context.Context, t *tx, id string, number int64, r firerunner.GuestReport) (bool, error) {
	vm, err := t.q.VM(ctx, id)
	switch {
	case err != nil:
		return false, wrap(err, "report of microVM %q", id)
	case number > 0 && number <= vm.Number:
		return false, nil
	case vm.Exited != 0:
		return false, firerunner.Errorf(firerunner.Conflict, "report of microVM %q: it has ended", id)
	}
	if r.At.IsZero() {
		r.At = s.config.Now()
	}
	r.Message, r.Failure = cut(r.Message, messageMost), cut(r.Failure, failureMost)
	vm.Number = max(vm.Number, number)
	vm.Exited = bit(r.Kind == firerunner.ReportExited)
	fits := number == 0 || reportFits(vm, r)
	if !fits {
		vm.Dropped++
	}
	var reports []firerunner.GuestReport
	if vm.Exited != 0 && vm.Dropped > 0 {
		reports = append(reports, firerunner.GuestReport{
			At: r.At, Kind: firerunner.ReportNotice,
			Message: fmt.Sprintf("%d reports of the guest were dropped: there were too many", vm.Dropped),
		})
	}
	if fits {
		reports = append(reports, r)
	}
	for _, r := range reports {
		vm.Seq++
		vm.Bytes += reportSize(r)
		if err := t.q.ReportInsert(ctx, sqlc.ReportInsertParams(rowFromReport(id, vm.Seq, r))); err != nil {
			return false, wrap(err, "report of microVM %q", id)
		}
	}
	_, err = t.q.VMReported(ctx, sqlc.VMReportedParams{
		Seq: vm.Seq, Number: vm.Number, Exited: vm.Exited, Bytes: vm.Bytes, Dropped: vm.Dropped, ID: id,
	})
	return fits, wrap(err, "report of microVM %q", id)
}

// reportFits reports whether there is room for what a guest says.
func reportFits(vm sqlc.VM, r firerunner.GuestReport) bool {
	reports, bytes := int64(reportsMost), int64(reportBytesMost)
	if r.Kind == firerunner.ReportNotice {
		reports, bytes = reports/2, bytes/2
	}
	return vm.Seq < reports && vm.Bytes+reportSize(r) <= bytes
}

func reportSize(r firerunner.GuestReport) int64 {
	return int64(len(r.Message)+len(r.Failure)+len(r.Kind)) + reportOverhead
}

func cut(text string, most int) string {
	if len(text) > most {
		text = text[:most]
	}
	return strings.ToValidUTF8(text, "")
}

// Reports implements firerunner.Ledger.
func (s *Store) Reports(ctx context.Context, id string, after int64) ([]firerunner.GuestReport, error) {
	return ask(ctx, s.reader, "reports", func(ctx context.Context) ([]sqlc.VMReport, error) {
		return s.q.ReportsAfter(ctx, sqlc.ReportsAfterParams{VMID: id, After: after})
	}, reportFromRow)
}

// ForgetVM implements firerunner.Ledger.
func (s *Store) ForgetVM(ctx context.Context, id string) error {
	return s.inTx(ctx, func(ctx context.Context, t *tx) error {
		return wrap(errors.Join(t.q.ReportsDelete(ctx, id), t.q.VMDelete(ctx, id)), "forget microVM %q", id)
	})
}

func vmFromRow(r sqlc.VM) firerunner.LedgerVM {
	vm := firerunner.LedgerVM{
		ID: r.ID, Driver: r.Driver, Host: r.Host, Ref: r.Ref, UsedAt: fromMicros(r.UsedAt), Number: r.Number,
		Exited: r.Exited != 0, CreatedAt: fromMicros(r.CreatedAt), Deadline: fromMicros(r.Deadline),
	}
	copy(vm.Token[:], r.Token)
	copy(vm.Session[:], r.Session)
	return vm
}

func rowFromReport(id string, seq int64, r firerunner.GuestReport) sqlc.VMReport {
	return sqlc.VMReport{
		VMID: id, Seq: seq, At: micros(r.At), Kind: string(r.Kind), JobID: r.JobID, Success: bit(r.Success),
		Failure: r.Failure, ExitCode: int64(r.ExitCode), Message: r.Message,
	}
}

func reportFromRow(r sqlc.VMReport) firerunner.GuestReport {
	return firerunner.GuestReport{
		Seq: r.Seq, At: fromMicros(r.At), Kind: firerunner.ReportKind(r.Kind), JobID: r.JobID, Success: r.Success != 0,
		Failure: r.Failure, ExitCode: int(r.ExitCode), Message: r.Message,
	}
}
