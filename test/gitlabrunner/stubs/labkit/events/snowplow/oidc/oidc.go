// Package oidc would prove to a collector who sends the events.
package oidc

// Option would change a Source.
type Option struct{}

// WithSkipIfUnsupportedCloud would allow sending without a proof.
func WithSkipIfUnsupportedCloud(bool) Option { return Option{} }

// Source would make tokens.
type Source struct{}

// NewSource is a source that makes none.
func NewSource(...Option) *Source { return &Source{} }
