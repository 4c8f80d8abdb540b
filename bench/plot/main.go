// Command plot draws what BenchmarkGrowth printed: go test -bench Growth ./bench | go run ./bench/plot >docs/growth.svg
//
// Both axes are logarithmic: what grows with the number of runners is a slope, what does not is level.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// point is the cost of one job's life beside so many live runners.
type point struct{ live, millis float64 }

const (
	width, height        = 640, 320
	left, right          = 60, 20
	top, bottom          = 40, 50
	leastLive, mostLive  = 10.0, 10_000.0
	leastCost, mostCost  = 1.0, 1_000.0
	style                = `text{font:13px sans-serif;fill:#24292f}.axis{stroke:#8c959f}.line{stroke:#0969da;fill:none;stroke-width:2}.dot{fill:#0969da}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.line{stroke:#58a6ff}.dot{fill:#58a6ff}}`
	title                = "milliseconds of processor time for one job, by live runners"
	description          = "A line over the number of live runners, both axes logarithmic; the figures are in the table beside it."
	labelGap, dotGap     = 18, 10
	dotRadius            = 4
	tickLeft, tickCentre = 8, 4
)

func main() {
	if err := plot(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

var (
	liveForm = regexp.MustCompile(`^BenchmarkGrowth/(\d+)`)
	costForm = regexp.MustCompile(`([\d.]+) cpu-ms/job`)
)

// read finds the figures in the output of the benchmark.
func read(in io.Reader) (points []point, err error) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		live, cost := liveForm.FindStringSubmatch(lines.Text()), costForm.FindStringSubmatch(lines.Text())
		if live == nil || cost == nil {
			continue
		}
		var p point
		if p.live, err = strconv.ParseFloat(live[1], 64); err != nil {
			return nil, err
		}
		if p.millis, err = strconv.ParseFloat(cost[1], 64); err != nil {
			return nil, err
		}
		points = append(points, p)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(points) == 0 {
		return nil, errors.New("there is no figure of BenchmarkGrowth on the standard input")
	}
	return points, nil
}

// scale puts a value between two others on a line of so many pixels.
func scale(v, least, most, pixels float64) float64 {
	return math.Log(v/least) / math.Log(most/least) * pixels
}

func x(live float64) float64 { return left + scale(live, leastLive, mostLive, width-left-right) }
func y(cost float64) float64 {
	return height - bottom - scale(cost, leastCost, mostCost, height-top-bottom)
}

func plot(in io.Reader, out io.Writer) error {
	points, err := read(in)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\">\n<title>%s</title>\n<desc>%s</desc>\n<style>%s</style>\n",
		width, height, title, description, style)
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"20\">%s</text>\n", left, title)
	for cost := leastCost; cost <= mostCost; cost *= 10 {
		fmt.Fprintf(&b, "<line class=\"axis\" stroke-opacity=\".4\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", left, width-right, y(cost), y(cost))
		fmt.Fprintf(&b, "<text text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%.0f</text>\n", left-tickLeft, y(cost)+tickCentre, cost)
	}
	for live := leastLive; live <= mostLive; live *= 10 {
		fmt.Fprintf(&b, "<text text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%.0f</text>\n", x(live), height-bottom+labelGap, live)
	}
	b.WriteString("<polyline class=\"line\" points=\"")
	for _, p := range points {
		fmt.Fprintf(&b, "%.1f,%.1f ", x(p.live), y(p.millis))
	}
	b.WriteString("\"/>\n")
	for _, p := range points {
		fmt.Fprintf(&b, "<circle class=\"dot\" r=\"%d\" cx=\"%.1f\" cy=\"%.1f\"/>\n", dotRadius, x(p.live), y(p.millis))
		fmt.Fprintf(&b, "<text text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">%.1f</text>\n", x(p.live), y(p.millis)-dotGap, p.millis)
	}
	b.WriteString("</svg>\n")
	_, err = io.WriteString(out, b.String())
	return err
}
