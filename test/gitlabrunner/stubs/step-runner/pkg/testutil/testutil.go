// Package testutil is empty: a test of gitlab-runner imports it, and tidy wants
// every import to exist.
package testutil
