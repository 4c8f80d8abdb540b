package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const printed = `goos: linux
BenchmarkGrowth/10-2       200   6396263 ns/op    7.616 cpu-ms/job   764.6 gone-p50-ms
BenchmarkGrowth/10000-2    200  44294685 ns/op   50.06 cpu-ms/job   4809 gone-p50-ms
PASS
`

func TestPlotOK(t *testing.T) {
	var out strings.Builder
	require.NoError(t, plot(strings.NewReader(printed), &out))
	circles := 0
	for d := xml.NewDecoder(strings.NewReader(out.String())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	require.Equal(t, 2, circles)
	require.Contains(t, out.String(), ">50.1</text>")
	require.Equal(t, float64(left), x(leastLive))
	require.Equal(t, float64(width-right), x(mostLive))
}

func TestPlotErrNothing(t *testing.T) {
	require.ErrorContains(t, plot(strings.NewReader("PASS\n"), io.Discard), "no figure")
}
