// Command init is the first process of a microVM that goes wrong. The kernel's command line is the same for all, so
// what to do is in a file of the initial RAM disk, /modules/fault.
//
//	silent  never says a word to the host
//	panics  ends, which the kernel answers with a panic
package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	what, err := os.ReadFile("/modules/fault")
	fmt.Println("init:", strings.TrimSpace(string(what)), err)
	if strings.HasPrefix(string(what), "panics") {
		os.Exit(1)
	}
	for {
		time.Sleep(time.Hour)
	}
}
