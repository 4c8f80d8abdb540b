// Package gitlabrunner is what FireRunner knows of gitlab-runner itself: the settings and arguments with which it runs
// exactly one job, and what the lines of its log mean. The guest agent uses it inside a microVM, the provisioning over
// SSH from outside. It is small, because the agent is: the standard library and the root package.
package gitlabrunner
