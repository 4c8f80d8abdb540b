package firerunner_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner"
)

const (
	architecture   = "docs/ARCHITECTURE.md"
	lifecycleBegin = "<!-- lifecycle: made from lifecycle.go by make generate -->\n"
	lifecycleEnd   = "<!-- end of lifecycle -->\n"
)

// TestLifecycleDocument holds the drawing and the table in docs against the program's table.
func TestLifecycleDocument(t *testing.T) {
	text, err := os.ReadFile(architecture)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), lifecycleBegin)
	require.True(t, ok, "%s has lost its mark %q", architecture, lifecycleBegin)
	written, after, ok := strings.Cut(rest, lifecycleEnd)
	require.True(t, ok, "%s has lost its mark %q", architecture, lifecycleEnd)

	drawn := drawLifecycle()
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(architecture, []byte(before+lifecycleBegin+drawn+lifecycleEnd+after), 0o644))
		return
	}
	require.Equal(t, drawn, written, "%s is not what lifecycle.go says: make generate", architecture)
}

// drawLifecycle writes the lifecycle as a mermaid drawing and a table.
func drawLifecycle() string {
	var b strings.Builder
	b.WriteString("\n```mermaid\nstateDiagram-v2\n    direction LR\n")
	fmt.Fprintf(&b, "    [*] --> %s\n", firerunner.Queued)
	for _, tr := range firerunner.Transitions() {
		label := string(tr.Owner)
		if tr.To == firerunner.Stopping && tr.From < firerunner.Running {
			label += ", early end"
		}
		fmt.Fprintf(&b, "    %s --> %s: %s\n", tr.From, tr.To, label)
	}
	fmt.Fprintf(&b, "    %s --> [*]\n```\n\n", firerunner.Gone)

	b.WriteString("| from | to | who moves it | on what evidence | within (default) | when that has passed |\n")
	b.WriteString("|---|---|---|---|---|---|\n")
	for _, row := range firerunner.Lifecycle() {
		within := "no limit"
		if row.Within > 0 {
			within = row.Within.String()
		}
		if row.State == firerunner.Running {
			within = "job timeout + " + within
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", row.State, row.Next, row.Owner, row.Evidence, within, row.Overdue)
	}
	b.WriteString("\n")
	return b.String()
}
