// Command coverage adds up Go coverage profiles and prints how much of the hand-written code is covered, by package
// and in total:
//
//	coverage -root DIR -least 75 PROFILE...
//
// Generated files do not count. A block that several test programs report counts once, as covered if any covered
// it. It fails where the total is below -least.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

func main() {
	root := flag.String("root", ".", "folder of the module")
	least := flag.Float64("least", 0, "fail below this percentage")
	flag.Parse()
	if err := run(*root, *least, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
}

// block is one piece of a profile: a range of a file, and how many statements it has.
type block struct {
	where      string // package/file.go:line.column,line.column
	statements int
}

type tally struct{ covered, all int }

func (t tally) percent() float64 {
	if t.all == 0 {
		return 100
	}
	return 100 * float64(t.covered) / float64(t.all)
}

func run(root string, least float64, profiles []string) error {
	if len(profiles) == 0 {
		return fmt.Errorf("no profile given")
	}
	module, err := moduleOf(root)
	if err != nil {
		return err
	}
	blocks := map[block]bool{}
	for _, p := range profiles {
		if err := read(p, blocks); err != nil {
			return err
		}
	}
	total, byPackage, written := tally{}, map[string]*tally{}, map[string]bool{}
	for b, covered := range blocks {
		file, _, _ := strings.Cut(b.where, ":")
		counts, known := written[file]
		if !known {
			counts = handWritten(filepath.Join(root, strings.TrimPrefix(file, module+"/")))
			written[file] = counts
		}
		if !counts {
			continue
		}
		name := "." + strings.TrimPrefix(path.Dir(file), module)
		if byPackage[name] == nil {
			byPackage[name] = &tally{}
		}
		for _, t := range []*tally{&total, byPackage[name]} {
			t.all += b.statements
			if covered {
				t.covered += b.statements
			}
		}
	}
	names := make([]string, 0, len(byPackage))
	for name := range byPackage {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Printf("%6.1f %%  %s\n", byPackage[name].percent(), name)
	}
	fmt.Printf("coverage of hand-written code: %.1f %% of %d statements\n", total.percent(), total.all)
	if total.percent() < least {
		return fmt.Errorf("%.1f %% is below %.0f %%", total.percent(), least)
	}
	return nil
}

func moduleOf(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?m)^module (\S+)$`).FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%s/go.mod has no module line", root)
	}
	return string(m[1]), nil
}

// read adds a profile's blocks. A line is "file:from,to statements count".
func read(profile string, blocks map[block]bool) error {
	f, err := os.Open(profile)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		parts := strings.Fields(lines.Text())
		if len(parts) != 3 {
			continue // the first line: the mode
		}
		statements, err := strconv.Atoi(parts[1])
		if err != nil {
			return fmt.Errorf("%s: %q is not a block", profile, lines.Text())
		}
		b := block{parts[0], statements}
		blocks[b] = blocks[b] || parts[2] != "0"
	}
	return lines.Err()
}

// generated is the line by which Go tools know a generated file (https://go.dev/s/generatedcode).
var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

func handWritten(file string) bool {
	text, err := os.ReadFile(file)
	return err == nil && !generated.Match(text)
}
