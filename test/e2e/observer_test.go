package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/firerunner/firerunner/internal/gitlabtest"
	"github.com/firerunner/firerunner/test/remains"
)

// observer looks, all the time that a site lives, at what every user of the machine could look at: the command lines
// and environments of its processes, and its files. It writes down where there is a secret, and counts microVMs.
type observer struct {
	s       *site
	stop    chan struct{}
	stopped sync.WaitGroup
	once    sync.Once

	mu       sync.Mutex
	secrets  map[string]string // value -> what it is
	findings map[string]bool
	searched map[string]sight // by where: what needs no second look
	most     int              // microVMs at once
}

// sight is what a place was when it was searched, and for how many secrets.
type sight struct {
	state   string
	secrets int
}

// lookEach is how often: a microVM lives for seconds, so each is looked at often.
const lookEach = 400 * time.Millisecond

func observe(s *site) *observer {
	o := &observer{
		s: s, stop: make(chan struct{}), findings: map[string]bool{}, searched: map[string]sight{},
		secrets: map[string]string{s.token: "FireRunner's own token", s.signing: "the signing token"},
	}
	o.stopped.Go(func() {
		tick := time.NewTicker(lookEach)
		defer tick.Stop()
		for {
			select {
			case <-o.stop:
				return
			case <-tick.C:
				o.look()
			}
		}
	})
	return o
}

func (o *observer) close() {
	o.once.Do(func() { close(o.stop) })
	o.stopped.Wait()
}

// look is one look at everything.
func (o *observer) look() {
	o.learn()
	qemus := 0
	for _, p := range remains.Processes(o.s.dir) {
		for what, text := range map[string][]byte{"command line": p.Cmdline, "environment": p.Environ} {
			where := fmt.Sprintf("%s of process %d (%s)", what, p.PID, p.Name())
			if o.changed(where, string(text)) {
				o.search(where, text)
			}
		}
		if strings.HasPrefix(p.Name(), "qemu-system") {
			qemus++
		}
	}
	o.mu.Lock()
	o.most = max(o.most, qemus)
	o.mu.Unlock()
	o.lookAtFiles(o.s.state("vms"))
}

// learn takes down the secrets that are in force now: those of runners and jobs live as long as these.
func (o *observer) learn() {
	runners := o.s.gitlab.Runners()
	jobs := o.s.gitlab.Jobs(gitlabtest.JobFilter{Statuses: []gitlabtest.Status{gitlabtest.StatusRunning, gitlabtest.StatusCanceling}})
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range runners {
		o.secrets[r.Token] = fmt.Sprintf("the token of GitLab runner %d", r.ID)
	}
	for _, j := range jobs {
		if token := o.s.gitlab.JobToken(j.ID); token != "" {
			o.secrets[token] = fmt.Sprintf("the token of job %d", j.ID)
		}
	}
}

// changed says whether a place has to be searched: it is not what it was, or there are secrets that nobody looked for
// there. Most looks find nothing new, and would be most of what a test costs.
func (o *observer) changed(where, state string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := sight{state, len(o.secrets)}
	if o.searched[where] == now {
		return false
	}
	o.searched[where] = now
	return true
}

// tokenForm matches secrets that were in force between two looks: GitLab's prefixes
// (https://docs.gitlab.com/security/tokens/#token-prefixes) and signing tokens.
var tokenForm = regexp.MustCompile(`\b(?:glrt|glcbt|glpat)-[\w.-]{16,}|whsec_[\w+/=]{16,}`)

// tokenMarks are what a text has that tokenForm matches.
var tokenMarks = []string{"glrt-", "glcbt-", "glpat-", "whsec_"}

func (o *observer) search(where string, text []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for secret, what := range o.secrets {
		if secret != "" && bytes.Contains(text, []byte(secret)) {
			o.findings[what+" is in the "+where] = true
		}
	}
	if !slices.ContainsFunc(tokenMarks, func(mark string) bool { return bytes.Contains(text, []byte(mark)) }) {
		return // regular expressions are slow, and there is much to search
	}
	if found := tokenForm.Find(text); found != nil {
		o.findings[fmt.Sprintf("something like a token (%.8s...) is in the %s", found, where)] = true
	}
}

// lookAtFiles reads every file in a folder but guests' disks, in which jobs keep what they like.
func (o *observer) lookAtFiles(folder string) {
	_ = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // removed while we look
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		if info.Mode().Perm()&0o004 != 0 {
			o.mu.Lock()
			o.findings["everybody can read "+path] = true
			o.mu.Unlock()
		}
		// Read after its time and size were taken: what is written meanwhile makes them others.
		if filepath.Ext(path) != ".qcow2" && o.changed("file "+path, fmt.Sprint(info.Size(), info.ModTime().UnixNano())) {
			o.search("file "+path, []byte(readAll(path)))
		}
		return nil
	})
}

// found returns what was found, in words.
func (o *observer) found() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.findings))
}

// mostVMs returns how many microVMs of the site there were at once, at most.
func (o *observer) mostVMs() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.most
}
