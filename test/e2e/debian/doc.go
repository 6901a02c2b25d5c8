// Package debian makes an image of Debian with what tests of whole applications
// run: PostgreSQL, nginx and python beside the smallest system there is. It is made
// by debootstrap once for a checkout, and kept in bin/test-images.
package debian
