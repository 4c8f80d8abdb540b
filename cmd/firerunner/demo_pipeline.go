package main

// demoFiles is the repository that the demo pushes. Its pipeline has six jobs of two sizes: one fails on purpose, and
// one uses what another made.
func demoFiles() map[string]string {
	return map[string]string{
		"README.md": "# Hello\n\nA repository whose jobs run in microVMs.\n",
		"sum.sh": `#!/bin/bash
# Adds what it is given.
total=0
for n in "$@"; do total=$((total + n)); done
echo "$total"
`,
		".gitlab-ci.yml": `stages: [build, test, report]

variables:
  GREETING: hello from a microVM
  GIT_DEPTH: 1

default:
  tags: [firecracker-1cpu-1gb]

compile:
  stage: build
  tags: [firecracker-2cpu-2gb]
  script:
    - echo "made on $(nproc) vCPUs"
    - mkdir out
    - bash sum.sh 1 2 3 4 > out/sum.txt
  artifacts:
    paths: [out/]
    expire_in: 1 hour

hello:
  stage: build
  before_script:
    - echo "$GREETING"
  script:
    - uname -srm
    - nproc
    - git log --oneline -1

unit:
  stage: test
  needs: []
  script:
    - test "$(bash sum.sh 2 2)" = 4
    - echo "2 + 2 is still 4"

lint:
  stage: test
  needs: []
  variables: {GIT_STRATEGY: none}
  allow_failure: true
  script:
    - echo "this one fails on purpose, and is allowed to"
    - exit 3

verify:
  stage: test
  needs: [compile]
  variables: {GIT_STRATEGY: none}
  script:
    - echo "the sum that compile left is $(cat out/sum.txt)"
    - test "$(cat out/sum.txt)" = 10

report:
  stage: report
  needs: [unit]
  tags: [firecracker-2cpu-2gb]
  variables: {GIT_STRATEGY: none}
  script:
    - echo "the tests are through, on $(nproc) vCPUs"
  after_script:
    - echo "and nothing of this microVM will be left"
`,
	}
}
