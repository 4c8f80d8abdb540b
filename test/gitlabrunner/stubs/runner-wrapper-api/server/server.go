// Package server would serve the `wrapper` command's API.
package server

import "net"

// Server serves nothing.
type Server struct{}

// New is a server of nothing.
func New(log, wrapper any) *Server { return &Server{} }

// Listen returns at once.
func (*Server) Listen(net.Listener) {}

// Stop does nothing.
func (*Server) Stop() {}
