package row

import (
	"fmt"
	"strings"

	"github.com/firerunner/firerunner"
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

// CheckReport refuses what a guest cannot say.
func CheckReport(id string, number int64, r firerunner.GuestReport) error {
	if number < 0 || len(r.Kind) > kindMost || number > 0 && r.Kind == firerunner.ReportExited || !r.JobKey.Valid() {
		return firerunner.Errorf(firerunner.Invalid, "report %d of microVM %q: a guest cannot say %.32q", number, id, r.Kind)
	}
	return nil
}

// Take applies a report that CheckReport let pass to what is known of the microVM: it returns the rows to insert and
// changes vm, which is to be written too unless nothing changed (changed = false: the report is known already).
func (vm *VM) Take(number int64, r firerunner.GuestReport) (rows []VMReport, added, changed bool, err error) {
	switch {
	case number > 0 && number <= vm.Number:
		return nil, false, false, nil
	case vm.Exited != 0:
		return nil, false, false, firerunner.Errorf(firerunner.Conflict, "report of microVM %q: it has ended", vm.ID)
	}
	r.Message, r.Failure = cut(r.Message, messageMost), cut(r.Failure, failureMost)
	vm.Number = max(vm.Number, number)
	vm.Exited = Bit(r.Kind == firerunner.ReportExited)
	fits := number == 0 || vm.fits(r)
	if !fits {
		vm.Dropped++
	}
	if vm.Exited != 0 && vm.Dropped > 0 {
		rows = append(rows, vm.add(firerunner.GuestReport{
			At: r.At, Kind: firerunner.ReportNotice,
			Message: fmt.Sprintf("%d reports of the guest were dropped: there were too many", vm.Dropped),
		}))
	}
	if fits {
		rows = append(rows, vm.add(r))
	}
	return rows, fits, true, nil
}

// fits reports whether there is room for what a guest says.
func (vm *VM) fits(r firerunner.GuestReport) bool {
	reports, bytes := int64(reportsMost), int64(reportBytesMost)
	if r.Kind == firerunner.ReportNotice {
		reports, bytes = reports/2, bytes/2
	}
	return vm.Seq < reports && vm.Bytes+reportSize(r) <= bytes
}

// add counts the report and makes its row.
func (vm *VM) add(r firerunner.GuestReport) VMReport {
	vm.Seq++
	vm.Bytes += reportSize(r)
	return storable(VMReport{
		VMID: vm.ID, Seq: vm.Seq, At: Micros(r.At), Kind: string(r.Kind), JobID: r.JobID, Success: Bit(r.Success),
		Failure: r.Failure, ExitCode: int64(r.ExitCode), Message: r.Message, JobKey: string(r.JobKey),
	})
}

func reportSize(r firerunner.GuestReport) int64 {
	return int64(len(r.Message)+len(r.Failure)+len(r.Kind)+len(r.JobKey)) + reportOverhead
}

func cut(text string, most int) string {
	if len(text) > most {
		text = text[:most]
	}
	return strings.ToValidUTF8(text, "")
}

// LedgerVM is the row as the root package has it.
func (vm VM) LedgerVM() firerunner.LedgerVM {
	known := firerunner.LedgerVM{
		ID: vm.ID, Driver: vm.Driver, Host: vm.Host, Ref: vm.Ref, UsedAt: FromMicros(vm.UsedAt), Number: vm.Number,
		Exited: vm.Exited != 0, CreatedAt: FromMicros(vm.CreatedAt), Deadline: FromMicros(vm.Deadline),
	}
	copy(known.Token[:], vm.Token)
	copy(known.Session[:], vm.Session)
	return known
}

// GuestReport is the row as the root package has it.
func (r VMReport) GuestReport() firerunner.GuestReport {
	return firerunner.GuestReport{
		Seq: r.Seq, At: FromMicros(r.At), Kind: firerunner.ReportKind(r.Kind), JobID: r.JobID, Success: r.Success != 0,
		Failure: r.Failure, ExitCode: int(r.ExitCode), Message: r.Message, JobKey: firerunner.JobKey(r.JobKey),
	}
}
