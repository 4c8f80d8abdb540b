// Package flintlock holds Flintlock's wire API in the folders below it, as .proto files of our own and the code that is
// made of them ("make generate"). Flintlock is https://github.com/liquidmetal-dev/flintlock; its packages, names,
// numbers and file names are kept, so that both sides understand one another and reflection says the same. Options
// that are not on the wire (HTTP, OpenAPI) are left out.
package flintlock
