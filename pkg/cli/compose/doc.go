// Package compose is `cri-node compose`: several containers of one file.
package compose

import _ "github.com/compose-spec/compose-go/v2/loader" // until the command is here
