package control_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain takes fewer courses of TestAnyOrder than rapid's 100, which take half a minute under the race detector; more
// with -rapid.checks=2000.
func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "rapid.checks" })
	if !chosen {
		if err := flag.Set("rapid.checks", "30"); err != nil {
			os.Exit(2)
		}
	}
	goleak.VerifyTestMain(m)
}
