// Package metrics would count billing events.
package metrics

// CollectorOption would change what is counted.
type CollectorOption struct{}

// WithCollectorNamespace would name the counters.
func WithCollectorNamespace(string) CollectorOption { return CollectorOption{} }

// WithCollectorBatchDeliveryDurationBuckets would set the buckets.
func WithCollectorBatchDeliveryDurationBuckets([]float64) CollectorOption { return CollectorOption{} }
