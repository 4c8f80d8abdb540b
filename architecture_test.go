package firerunner_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	module      = "github.com/firerunner/firerunner"
	importsFile = "docs/imports.txt"
	importsHead = `# Which part imports which: the arrows between the module's packages, tests left out.
# Compared with the code by TestImports; "make generate" writes it. A new line here is a new arrow: is it meant?

`
)

// goPackage is what is read of "go list -json".
type goPackage struct {
	ImportPath string
	Imports    []string
}

// packages returns the module's packages without tests.
func packages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "./...")
	list.Stderr = os.Stderr
	out, err := list.Output()
	require.NoError(t, err)
	var all []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// short names a package of the module by its folder; ok = false for others.
func short(importPath string) (name string, ok bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// TestImports compares the arrows with the committed file, so that a new one is seen in review.
func TestImports(t *testing.T) {
	var arrows []string
	for _, p := range packages(t) {
		from, _ := short(p.ImportPath)
		for _, imported := range p.Imports {
			if to, ok := short(imported); ok {
				arrows = append(arrows, from+" -> "+to)
			}
		}
	}
	sort.Strings(arrows)
	drawn := importsHead + strings.Join(arrows, "\n") + "\n"
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(importsFile, []byte(drawn), 0o644))
		return
	}
	written, err := os.ReadFile(importsFile)
	require.NoError(t, err)
	require.Equal(t, string(written), drawn, "the import graph has changed; if that is meant: make generate")
}

// siblings are the only arrows between rooms.
var siblings = map[string][]string{
	"control": {"queue", "placement"},
	"sim":     {"control", "intake", "peers"}, // it runs them in a model of everything else, for tests; see testRooms
}

// testRooms are for tests alone: no part of the product may need them.
var testRooms = []string{"sim"}

// room returns the folder directly below internal that a package belongs to; empty for others.
func room(name string) string {
	rest, ok := strings.CutPrefix(name, "internal/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	return first
}

func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := short(p.ImportPath)
		for _, imported := range p.Imports {
			to, ours := short(imported)
			switch {
			case from == ".":
				require.False(t, ours, "the root package imports %s: it imports nobody", imported)
				require.NotContains(t, strings.Split(imported, "/")[0], ".", "the root package imports %s: only the standard library", imported)
			case !ours || to == ".":
			case slices.Contains(testRooms, room(to)) && room(from) != room(to):
				t.Errorf("%s imports %s, which is for tests alone", from, to)
			case strings.HasPrefix(to, "cmd/") || to == "cmd":
				t.Errorf("%s imports %s: nobody imports a command", from, to)
			case strings.HasPrefix(from, "cmd/") || strings.HasPrefix(from, "test/") || strings.HasPrefix(from, "bench"):
			case strings.HasPrefix(to, "proto/"): // a wire's words, made by a tool, which import nobody but one another
				require.True(t, from == "internal/driver/flintlock" || from == "internal/flintlocktest" || strings.HasPrefix(from, "proto/"),
					"%s imports %s: only the two ends of the wire know its words", from, to)
			case room(from) == "" || room(to) == "":
				t.Errorf("%s imports %s: what is it, if no room?", from, to)
			case room(from) != room(to) && !slices.Contains(siblings[room(from)], room(to)):
				t.Errorf("%s imports %s: rooms meet in the root package and in cmd only", from, to)
			}
		}
	}
}

// TestNames keeps words out of package names that would hide what is inside, and words that have a better one in
// docs/NOMENCLATURE.md.
func TestNames(t *testing.T) {
	for _, p := range packages(t) {
		for _, word := range []string{"util", "utils", "common", "helper", "helpers", "worker", "instance", "node", "manager", "handler"} {
			require.NotEqual(t, word, path.Base(p.ImportPath), "%s: see docs/NOMENCLATURE.md", p.ImportPath)
		}
	}
}
