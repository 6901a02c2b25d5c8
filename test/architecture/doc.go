// Package architecture holds the rules that every package of the project obeys:
// which way imports point, how large a file or function may become, that each
// package says what it is. They are tests, so that they run wherever Go does.
package architecture
