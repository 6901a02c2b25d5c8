// Package specs reads what came of a suite of ginkgo's from its JSON report, and
// says it in Markdown: a table of the groups, and the specs that did not pass, each
// with the reason. Specs that were not selected are left out. It runs no suite and
// writes no file.
package specs
