package qemu

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/firerunner/firerunner"
	"github.com/firerunner/firerunner/internal/driver/drivertest"
)

// BenchmarkLife measures a microVM's life: Create, hello, Destroy, and the shim's memory. Medians are reported:
//
//	go test -run '^$' -bench Life -benchtime 10x ./internal/driver/qemu
func BenchmarkLife(b *testing.B) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		b.Skipf("real microVMs need QEMU, and it is not installed here: %v", err)
	}
	image := drivertest.Image(b)
	d := newDriver(b, nil)
	took := map[string][]float64{}
	note := func(what string, value float64) { took[what] = append(took[what], value) }
	for i := range b.N {
		id := fmt.Sprintf("bench%d", i)
		begin := time.Now()
		if _, err := d.Create(b.Context(), newSpec(id, image)); err != nil {
			b.Fatal(err)
		}
		note("create-ms", float64(time.Since(begin).Milliseconds()))
		until(b, d, id, firerunner.ReportHello)
		note("hello-ms", float64(time.Since(begin).Milliseconds()))
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", recordOf(b, d, id).PID))
		if _, rest, ok := bytes.Cut(status, []byte("VmRSS:")); ok {
			kib, _ := strconv.Atoi(strings.Fields(string(rest))[0])
			note("shim-MiB", float64(kib)/1024)
		}
		begin = time.Now()
		if err := d.Destroy(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		note("destroy-ms", float64(time.Since(begin).Milliseconds()))
	}
	for what, values := range took {
		sort.Float64s(values)
		b.ReportMetric(values[len(values)/2], what)
	}
}
