package storetest

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

// ExerciseLedger runs the suite of firerunner.Ledger; open returns a new, empty one for each test and closes it.
func ExerciseLedger(t *testing.T, open func(t *testing.T) firerunner.Ledger) {
	for name, run := range map[string]func(l *ledger){
		"VMOK":               (*ledger).vmOK,
		"VMErrNotFound":      (*ledger).vmErrNotFound,
		"TokenOnce":          (*ledger).tokenOnce,
		"TokenStaysUsed":     (*ledger).tokenStaysUsed,
		"TokenErr":           (*ledger).tokenErr,
		"ReportsOK":          (*ledger).reportsOK,
		"ReportsTwice":       (*ledger).reportsTwice,
		"ReportsAfterTheEnd": (*ledger).reportsAfterTheEnd,
		"ReportsBounded":     (*ledger).reportsBounded,
		"ForgetOK":           (*ledger).forgetOK,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(&ledger{T: t, Ledger: open(t)})
		})
	}
}

type ledger struct {
	*testing.T
	firerunner.Ledger
}

func (l *ledger) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	l.Cleanup(cancel)
	return ctx
}

func (l *ledger) requireCode(want firerunner.Code, err error) {
	l.Helper()
	require.Error(l, err)
	require.Equal(l, want, firerunner.CodeOf(err), "%v", err)
}

func hash(n byte) (h [32]byte) {
	copy(h[:], bytes.Repeat([]byte{n}, len(h)))
	return h
}

func ledgerVM(id string) firerunner.LedgerVM {
	return firerunner.LedgerVM{
		ID: id, Driver: "flintlock", Host: "a", Token: hash(1), CreatedAt: noon(), Deadline: noon().Add(time.Hour),
	}
}

func (l *ledger) save(vm firerunner.LedgerVM) {
	l.Helper()
	require.NoError(l, l.SaveVM(l.ctx(), vm))
}

// read returns the microVM that every test has.
func (l *ledger) read() firerunner.LedgerVM {
	l.Helper()
	vm, err := l.VM(l.ctx(), "a")
	require.NoError(l, err)
	return vm
}

func (l *ledger) vmOK() {
	b, a := ledgerVM("b"), ledgerVM("a")
	b.Session, b.UsedAt = hash(2), noon()
	other := ledgerVM("c")
	other.Driver = "other"
	l.save(b)
	l.save(a)
	l.save(other)
	a.Ref, a.Host, a.Token = awkward, "b", hash(3)
	l.save(a)
	require.Equal(l, a, l.read())
	all, err := l.VMs(l.ctx(), "flintlock")
	require.NoError(l, err)
	require.Equal(l, []firerunner.LedgerVM{a, b}, all)
	none, err := l.VMs(l.ctx(), "nobody")
	require.NoError(l, err)
	require.Empty(l, none)
}

func (l *ledger) vmErrNotFound() {
	_, err := l.VM(l.ctx(), "a")
	l.requireCode(firerunner.NotFound, err)
}

// tokenOnce: of any number at once, one is first.
func (l *ledger) tokenOnce() {
	const callers = 24
	l.save(ledgerVM("a"))
	var first atomic.Int32
	var winner atomic.Int32
	var all sync.WaitGroup
	begin := make(chan struct{})
	for i := range callers {
		all.Go(func() {
			<-begin
			won, err := l.UseToken(l.ctx(), "a", hash(byte(i+10)), noon())
			if err != nil {
				l.Errorf("use the token: %v", err)
			}
			if won {
				first.Add(1)
				winner.Store(int32(i + 10))
			}
		})
	}
	close(begin)
	all.Wait()
	require.Equal(l, int32(1), first.Load())
	vm := l.read()
	require.Equal(l, hash(byte(winner.Load())), vm.Session)
	require.Equal(l, noon(), vm.UsedAt)
}

// tokenStaysUsed: a driver that writes down later what it knew before does not make the token new.
func (l *ledger) tokenStaysUsed() {
	before := ledgerVM("a")
	l.save(before)
	won, err := l.UseToken(l.ctx(), "a", hash(9), noon())
	require.NoError(l, err)
	require.True(l, won)
	before.Ref = "uid"
	l.save(before)
	want := before
	want.Session, want.UsedAt = hash(9), noon()
	require.Equal(l, want, l.read())
	won, err = l.UseToken(l.ctx(), "a", hash(8), noon())
	require.NoError(l, err)
	require.False(l, won)
	require.Equal(l, want, l.read())
}

func (l *ledger) tokenErr() {
	_, err := l.UseToken(l.ctx(), "a", hash(1), noon())
	l.requireCode(firerunner.NotFound, err)
	l.save(ledgerVM("a"))
	_, err = l.UseToken(l.ctx(), "a", hash(1), time.Time{})
	l.requireCode(firerunner.Invalid, err)
}

func (l *ledger) add(id string, number int64, r firerunner.GuestReport) bool {
	l.Helper()
	added, err := l.AddReport(l.ctx(), id, number, r)
	require.NoError(l, err)
	return added
}

func (l *ledger) reports(id string, after int64) []firerunner.GuestReport {
	l.Helper()
	got, err := l.Reports(l.ctx(), id, after)
	require.NoError(l, err)
	return got
}

func (l *ledger) reportsOK() {
	l.save(ledgerVM("a"))
	l.save(ledgerVM("b"))
	full := firerunner.GuestReport{
		Seq: 77, At: noon(), Kind: firerunner.ReportJobDone, JobID: 1 << 50, JobKey: "sealed_Key-9", Success: true, Failure: "f", ExitCode: -9, Message: awkward,
	}
	require.True(l, l.add("a", 1, full))
	require.True(l, l.add("b", 5, firerunner.GuestReport{Kind: firerunner.ReportHello}))
	require.True(l, l.add("a", 0, firerunner.GuestReport{At: noon(), Kind: firerunner.ReportNotice}))
	require.True(l, l.add("a", 7, firerunner.GuestReport{At: noon(), Kind: firerunner.ReportHello}))
	got := l.reports("a", 0)
	full.Seq = 1
	require.Equal(l, full, got[0])
	require.Equal(l, []int64{1, 2, 3}, []int64{got[0].Seq, got[1].Seq, got[2].Seq})
	require.Equal(l, got[2:], l.reports("a", 2))
	require.Empty(l, l.reports("a", 3))
	require.Empty(l, l.reports("nobody", 0))
	require.Equal(l, int64(7), l.read().Number)
	require.True(l, l.add("b", 6, firerunner.GuestReport{Kind: firerunner.ReportNotice, Message: "a\x00b"}), "a guest says what it likes")
	require.False(l, l.reports("b", 0)[0].At.IsZero())

	_, err := l.AddReport(l.ctx(), "nobody", 1, full)
	l.requireCode(firerunner.NotFound, err)
	for _, bad := range []struct {
		number int64
		kind   firerunner.ReportKind
	}{{-1, firerunner.ReportHello}, {8, firerunner.ReportExited}, {8, firerunner.ReportKind(strings.Repeat("x", 100))}} {
		_, err = l.AddReport(l.ctx(), "a", 9, firerunner.GuestReport{Kind: firerunner.ReportTookJob, JobID: 1, JobKey: "no key"})
		l.requireCode(firerunner.Invalid, err)
		_, err = l.AddReport(l.ctx(), "a", bad.number, firerunner.GuestReport{Kind: bad.kind})
		l.requireCode(firerunner.Invalid, err)
	}
	require.Len(l, l.reports("a", 0), 3)
}

// reportsTwice: what is sent again, also at once, counts once; what the driver adds later keeps its place.
func (l *ledger) reportsTwice() {
	l.save(ledgerVM("a"))
	const numbers, senders = 10, 4
	var added atomic.Int32
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for n := range numbers {
				ok, err := l.AddReport(l.ctx(), "a", int64(n+1), firerunner.GuestReport{At: noon(), Kind: firerunner.ReportNotice})
				if err != nil {
					l.Errorf("report: %v", err)
				}
				if ok {
					added.Add(1)
				}
			}
		})
	}
	all.Wait()
	require.Equal(l, int32(numbers), added.Load())
	got := l.reports("a", 0)
	require.Len(l, got, numbers)
	for i, r := range got {
		require.Equal(l, int64(i+1), r.Seq)
	}
	vm := ledgerVM("a")
	l.save(vm) // leaves Number alone
	require.False(l, l.add("a", numbers, firerunner.GuestReport{Kind: firerunner.ReportHello}))
}

func (l *ledger) reportsAfterTheEnd() {
	l.save(ledgerVM("a"))
	require.True(l, l.add("a", 1, firerunner.GuestReport{Kind: firerunner.ReportHello}))
	require.True(l, l.add("a", 0, firerunner.GuestReport{Kind: firerunner.ReportExited}))
	l.save(ledgerVM("a")) // leaves Exited alone
	require.True(l, l.read().Exited)
	for _, number := range []int64{0, 2} {
		_, err := l.AddReport(l.ctx(), "a", number, firerunner.GuestReport{Kind: firerunner.ReportNotice})
		l.requireCode(firerunner.Conflict, err)
	}
	require.False(l, l.add("a", 1, firerunner.GuestReport{Kind: firerunner.ReportHello}), "known already")
	require.Len(l, l.reports("a", 0), 2)
}

// reportsBounded: a guest that floods fills no disk, can still say how its job ended, and the driver's word is kept.
func (l *ledger) reportsBounded() {
	l.save(ledgerVM("a"))
	long := strings.Repeat("火", 4<<10)
	dropped := 0
	const flood = 300
	for n := range flood {
		if !l.add("a", int64(n+1), firerunner.GuestReport{At: noon(), Kind: firerunner.ReportNotice, Message: long, Failure: long}) {
			dropped++
		}
	}
	require.Positive(l, dropped)
	require.Less(l, dropped, flood)
	require.Equal(l, int64(flood), l.read().Number, "what was dropped is known too")
	require.True(l, l.add("a", flood+1, firerunner.GuestReport{At: noon(), Kind: firerunner.ReportJobDone, JobID: 1}))
	require.True(l, l.add("a", 0, firerunner.GuestReport{At: noon(), Kind: firerunner.ReportExited}))
	got := l.reports("a", 0)
	require.Len(l, got, flood-dropped+3)
	for _, r := range got {
		require.LessOrEqual(l, len(r.Message), 4<<10)
	}
	require.Equal(l, fmt.Sprintf("%d reports of the guest were dropped: there were too many", dropped), got[len(got)-2].Message)
	require.Equal(l, firerunner.ReportExited, got[len(got)-1].Kind)
}

func (l *ledger) forgetOK() {
	l.save(ledgerVM("a"))
	l.save(ledgerVM("b"))
	l.add("a", 1, firerunner.GuestReport{Kind: firerunner.ReportHello})
	l.add("b", 1, firerunner.GuestReport{Kind: firerunner.ReportHello})
	for range 2 {
		require.NoError(l, l.ForgetVM(l.ctx(), "a"))
	}
	_, err := l.VM(l.ctx(), "a")
	l.requireCode(firerunner.NotFound, err)
	require.Empty(l, l.reports("a", 0))
	require.Len(l, l.reports("b", 0), 1)
	l.save(ledgerVM("a"))
	require.Equal(l, ledgerVM("a"), l.read(), "a new one with the same name")
	require.True(l, l.add("a", 1, firerunner.GuestReport{Kind: firerunner.ReportHello}))
}
