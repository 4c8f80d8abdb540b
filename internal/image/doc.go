// Package image builds guest images and keeps them: a kernel, an initial RAM disk with the guest agent in it, and
// a root file system with gitlab-runner.
//
// An image is built from Debian packages by mmdebstrap, through the machine's own apt sources. The expensive part,
// the base (every package, and the kernel), is kept by a key over all that it is made of, so that a new agent or a
// new gitlab-runner costs seconds. Images are addressed by digest and never change; a name points to one of them.
//
// Nothing half-made is ever seen: everything is made in a directory of its own below tmp/, whose lock its builder
// holds, and moved into place at the end. What a builder left that was killed is removed by the next one.
package image
