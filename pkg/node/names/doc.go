// Package names makes up names that people can say and remember, of an adjective
// and a noun, and knows which names are allowed. It keeps no list of those in
// use: who does says so.
package names
