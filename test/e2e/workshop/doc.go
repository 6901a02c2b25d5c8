// Package workshop goes through docs/workshop.md as a person would: it types each
// command of the page into a shell on a pseudo terminal, and looks whether the
// terminal shows what the page says.
package workshop
