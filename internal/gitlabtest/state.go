package gitlabtest

import (
	"fmt"
	"math/rand/v2"
)

// state is all that the emulator knows. It lives in memory only and is guarded by Server.mu.
type state struct {
	lastID   map[string]int64 // by kind
	groups   map[string]int64 // by full path
	projects map[int64]*project
	byPath   map[string]*project

	tokens map[string]*accessToken // by secret

	runners      map[int64]*runner
	runnerTokens map[string]*runner
	queueTicks   int64

	pipelines map[int64]*pipeline
	jobs      map[int64]*job
	jobTokens map[string]*job
	jobOrder  []*job
	pending   []*job // ordered by id: the oldest job is handed out first

	hooks      map[int64]*hook
	undelivery int // deliveries queued or under way

	faults   []*activeFault
	chance   *rand.Rand
	limits   []*activeLimit
	requests map[string]int
}

func newState(seed uint64) state {
	return state{
		// Ids start apart, so that a job id taken for a pipeline id is seen in a test.
		lastID:       map[string]int64{"job": 1000, "pipeline": 500, "hook": 40, "runner": 20, "project": 0, "group": 100},
		groups:       map[string]int64{},
		projects:     map[int64]*project{},
		byPath:       map[string]*project{},
		tokens:       map[string]*accessToken{},
		runners:      map[int64]*runner{},
		runnerTokens: map[string]*runner{},
		pipelines:    map[int64]*pipeline{},
		jobs:         map[int64]*job{},
		jobTokens:    map[string]*job{},
		hooks:        map[int64]*hook{},
		chance:       rand.New(rand.NewPCG(seed, 1)),
		requests:     map[string]int{},
	}
}

func (st *state) nextID(kind string) int64 {
	st.lastID[kind]++
	return st.lastID[kind]
}

const tokenAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-" // 64 wide: no modulo bias

// secret makes prefix + 20 characters, the length of GitLab's own tokens.
// gitlab-runner 17.5 panics on a runner token shorter than 14 characters.
func (s *Server) secret(prefix string) string {
	raw := s.randomBytes(20)
	for i := range raw {
		raw[i] = tokenAlphabet[int(raw[i])%len(tokenAlphabet)]
	}
	return prefix + string(raw)
}

// uuid makes a random (version 4) UUID.
func (s *Server) uuid() string {
	b := s.randomBytes(16)
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
