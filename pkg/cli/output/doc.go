// Package output prints lists and objects the way docker's users know them:
// aligned tables, Go templates (--format), JSON, sizes and times in words.
//
// It knows no daemon. A list is a slice of structs whose exported fields are what
// a template can name; Columns say which of them the table shows.
package output
