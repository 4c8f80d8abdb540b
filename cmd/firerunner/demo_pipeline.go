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
  GIT_STRATEGY: none # only hello needs the repository

default:
  tags: [firecracker-1cpu-1gb]

compile:
  stage: build
  tags: [firecracker-2cpu-2gb]
  script:
    - echo "made on $(nproc) vCPUs"
    - mkdir out
    - echo $((1 + 2 + 3 + 4)) > out/sum.txt
  artifacts:
    paths: [out/]
    expire_in: 1 hour

hello:
  stage: build
  variables: {GIT_STRATEGY: clone, GIT_DEPTH: 1}
  before_script:
    - echo "$GREETING"
  script:
    - uname -srm
    - nproc
    - git log --oneline -1
    - bash sum.sh 1 2 3

unit:
  stage: test
  needs: []
  script:
    - test $((2 + 2)) = 4
    - echo "2 + 2 is still 4"

lint:
  stage: test
  needs: []
  allow_failure: true
  script:
    - echo "this one fails on purpose, and is allowed to"
    - exit 3

verify:
  stage: test
  needs: [compile]
  script:
    - echo "the sum that compile left is $(cat out/sum.txt)"
    - test "$(cat out/sum.txt)" = 10

report:
  stage: report
  needs: [unit]
  script:
    - echo "the tests are through"
  after_script:
    - echo "and nothing of this microVM will be left"
`,
	}
}
