// Package snowplow would send billing events; here there is nobody to send
// them to.
package snowplow

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"gitlab.com/gitlab-org/labkit/v2/events/snowplow/metrics"
)

var errNoEvents = errors.New("this test build of gitlab-runner sends no billing events")

// SendResult is the outcome of one delivery.
type SendResult struct {
	EventCount, StatusCode int
	Err                    error
}

// SendCallback hears of deliveries.
type SendCallback func(succeeded, failed []SendResult)

// EmitterOption would change an Emitter.
type EmitterOption struct{}

// WithCallback would set the callback.
func WithCallback(SendCallback) EmitterOption { return EmitterOption{} }

// WithTokenSource would set who vouches for the sender.
func WithTokenSource(any) EmitterOption { return EmitterOption{} }

// WithMetricsCollectorOptions would set up the metrics.
func WithMetricsCollectorOptions(...metrics.CollectorOption) EmitterOption { return EmitterOption{} }

// Emitter would deliver events.
type Emitter struct{}

// NewEmitter always fails, so that nobody believes events are sent.
func NewEmitter(string, ...EmitterOption) (*Emitter, error) { return nil, errNoEvents }

// Collector is an unused counter.
func (e *Emitter) Collector() prometheus.Collector {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "events_unused_total"})
}

// Tracker would collect events.
type Tracker struct{}

// NewTracker always fails.
func NewTracker(string, *Emitter) (*Tracker, error) { return nil, errNoEvents }

// Stop does nothing.
func (t *Tracker) Stop() {}

// TrackBillingEventWithOptionalInput always fails.
func (t *Tracker) TrackBillingEventWithOptionalInput(BillingEventRequiredInput, BillingEventOptionalInput) error {
	return errNoEvents
}

// BillingEventRequiredInput is what every event says.
type BillingEventRequiredInput struct {
	Category, EventType, Realm, UnitOfMeasure string
	Quantity                                  float64
}

// BillingEventOptionalInput is what an event may say as well.
type BillingEventOptionalInput struct {
	Subject, DeploymentType, InstanceID, UniqueInstanceID   string
	Metadata                                                map[string]any
	ProjectID, NamespaceID, RootNamespaceID, OrganizationID int64
}
