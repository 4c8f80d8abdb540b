package control

import "sync"

// holdups remembers why what a runner had could not be removed yet, so that the event about its deadline says so. It is
// for people only, and in memory: after a crash the next try finds out again.
type holdups struct {
	mu  sync.Mutex
	why map[string]string
}

// set keeps the latest reason; none forgets the runner.
func (h *holdups) set(runner string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.why, runner)
		return
	}
	if h.why == nil {
		h.why = map[string]string{}
	}
	h.why[runner] = withRemedy(err)
}

// get returns it; empty if there is none.
func (h *holdups) get(runner string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.why[runner]
}
