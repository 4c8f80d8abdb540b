package gitlabtest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firerunner/firerunner/internal/gitlabtest"
)

const fullCIFile = `
stages: [build, test]
variables:
  GLOBAL: yes
  COUNT: 3
  LONG: {value: "v$x", description: what it is, expand: false}
default:
  tags: [firecracker-2cpu-4gb]
  before_script: [echo default]
  timeout: 1h 30m
  image: alpine:3
.hidden: &hidden
  variables: {A: "1"}
  anything: goes
compile:
  stage: build
  script:
    - make
    - [echo nested, [echo deeper]]
  artifacts: {name: bin, paths: [out/], exclude: [out/tmp], when: always, expire_in: 1 week and 2 days}
unit:
  variables: {A: "1"}
  script: make test
  before_script: []
  after_script: [echo bye]
  parallel: 2
  needs: [compile, {job: absent, optional: true}]
  allow_failure: {exit_codes: [1, 2]}
report:
  stage: .post
  script: [echo end]
  when: on_failure
  dependencies: []
  services: [{name: "postgres:16", alias: db}]
deploy:
  stage: test
  script: [deploy]
  when: manual
`

func TestParseCIFileOK(t *testing.T) {
	t.Parallel()
	f, err := gitlabtest.ParseCIFile([]byte(fullCIFile))
	require.NoError(t, err)
	require.Equal(t, []string{".pre", "build", "test", ".post"}, f.Stages)
	require.Equal(t, []gitlabtest.Variable{{Key: "GLOBAL", Value: "yes"}, {Key: "COUNT", Value: "3"}, {Key: "LONG", Value: "v$x", Raw: true}}, f.Variables)
	names := []string{}
	for _, j := range f.Jobs {
		names = append(names, j.Name)
	}
	require.Equal(t, []string{"compile", "unit 1/2", "unit 2/2", "report", "deploy"}, names)
	compile, unit, report, deploy := f.Jobs[0], f.Jobs[1], f.Jobs[3], f.Jobs[4]
	require.Equal(t, []string{"make", "echo nested", "echo deeper"}, compile.Script)
	require.Equal(t, []string{"echo default"}, compile.BeforeScript)
	require.Equal(t, 90*time.Minute, compile.Timeout)
	require.Equal(t, "alpine:3", compile.Image.Name)
	require.Equal(t, []string{"firecracker-2cpu-4gb"}, compile.Tags)
	require.Equal(t, "always", compile.Artifacts.When)
	require.Empty(t, unit.BeforeScript)
	require.Equal(t, "test", unit.Stage)
	require.Equal(t, []int{1, 2}, unit.AllowCodes)
	require.Len(t, unit.Needs, 2)
	require.True(t, report.HasDeps)
	require.Empty(t, report.Dependencies)
	require.Equal(t, "db", report.Services[0].Alias)
	require.True(t, deploy.AllowFailure, "a manual job may be left out")
}

func TestParseCIFileErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"empty":          {"", "line 1: the file is empty"},
		"not yaml":       {"a: [", "yaml"},
		"list":           {"- a", "line 1: the file must be a mapping"},
		"unknown key":    {"a:\n  script: x\n  interruptible: true\n", `line 3: job "a": key "interruptible" is not supported`},
		"global key":     {"include: x\na: {script: x}\n", `line 1: key "include" is not supported`},
		"default key":    {"default:\n  cache: x\na: {script: x}\n", `line 2: default: key "cache" is not supported`},
		"no mapping":     {"tags: [a]\na: {script: x}\n", `line 1: unknown key "tags"`},
		"no script":      {"a:\n  stage: test\n", `line 1: job "a": script is missing`},
		"stage":          {"stages: [build]\na:\n  script: x\n", `line 2: job "a": stage "test" is not in stages: .pre, build, .post`},
		"needs":          {"a:\n  script: x\n  needs: [b]\n", `needs "b", which is no job`},
		"depends":        {"a:\n  script: x\n  dependencies: [b]\n", `depends on "b", which is no job`},
		"circle":         {"a:\n  script: x\n  needs: [b]\nb:\n  script: x\n  needs: [a]\n", "form a circle"},
		"stage circle":   {"stages: [one, two]\na:\n  stage: one\n  script: x\n  needs: [b]\nb:\n  stage: two\n  script: x\n", "form a circle"},
		"when":           {"a:\n  script: x\n  when: never\n", "line 3: job \"a\": when must be one of"},
		"timeout":        {"a:\n  script: x\n  timeout: soon\n", `line 3: job "a": timeout: "soon" is not a span of time`},
		"reference":      {"a:\n  script: !reference [b, script]\n", "the tag !reference is not supported"},
		"twice":          {"a:\n  script: x\n  script: y\n", "is there twice"},
		"parallel":       {"a:\n  script: x\n  parallel: 1000\n", "must be a number from 1 to 200"},
		"none visible":   {".a:\n  script: x\n", "no visible job"},
		"too many":       {strings.Repeat("x", 2<<20), "are more than"},
		"null script":    {"a:\n  script: null\n", "script must be a string"},
		"artifacts":      {"a:\n  script: x\n  artifacts:\n    reports: {junit: x}\n", `line 4: job "a": artifacts: key "reports" is not supported`},
		"image":          {"a:\n  script: x\n  image: {entrypoint: [x]}\n", "name is missing"},
		"expire":         {"a:\n  script: x\n  artifacts: {expire_in: soon}\n", "is not a span of time"},
		"alias in alias": {bomb(), "too large"},
		"retry too much": {"a:\n  script: x\n  retry: 3\n", "must be a number from 0 to 2"},
		"retry reason":   {"a:\n  script: x\n  retry: {max: 1, when: bad_luck}\n", `line 3: job "a": retry: when: "bad_luck" is no reason`},
		"retry key":      {"default:\n  retry: {often: 1}\na: {script: x}\n", `line 2: default: retry: key "often" is not supported`},
	} {
		_, err := gitlabtest.ParseCIFile([]byte(c.in))
		require.Error(t, err, name)
		require.Contains(t, err.Error(), c.want, name)
	}
	// Every problem is told at once, in the order of the file.
	_, err := gitlabtest.ParseCIFile([]byte("a:\n  script: x\n  foo: 1\nb:\n  bar: 2\n"))
	require.ErrorContains(t, err, "line 3")
	require.ErrorContains(t, err, "line 4: job \"b\": script is missing\nline 5")
}

// bomb is a file whose aliases unfold to 10^9 script lines.
func bomb() string {
	var b strings.Builder
	b.WriteString(".a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 9; i++ {
		p := "*a" + itoa(int64(i-1))
		b.WriteString(".a" + itoa(int64(i)) + ": &a" + itoa(int64(i)) + " [" + strings.Repeat(p+",", 9) + p + "]\n")
	}
	b.WriteString("job:\n  script: *a8\n")
	return b.String()
}

func FuzzCIFile(f *testing.F) {
	f.Add(fullCIFile)
	f.Add(bomb())
	f.Add("a: &a\n  script: [*a]\n")
	f.Add("a: {<<: [*b, {script: x}]}\n")
	f.Add("? [a]\n: b\n")
	f.Add("a:\n  script: x\n  retry: {max: 1, when: [always]}\n")
	f.Add("a:\n  script: x\n  timeout: 999999999999999999999y\n")
	f.Add("stages: {a: b}\na:\n  script: {x: y}\n  needs: {}\n")
	f.Fuzz(func(t *testing.T, in string) {
		began := time.Now()
		file, err := gitlabtest.ParseCIFile([]byte(in))
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("took %s", took)
		}
		if (file == nil) == (err == nil) {
			t.Fatalf("file %v and error %v", file, err)
		}
		if err != nil {
			return
		}
		for _, j := range file.Jobs {
			if len(j.Script) == 0 || j.Name == "" {
				t.Fatalf("job without name or script: %+v", j)
			}
		}
	})
}
