package streaming

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// status is how an exec or attach ended, as clients read it: the parts that
// matter of Kubernetes' metav1.Status.
type status struct {
	Metadata struct{} `json:"metadata"`
	Status   string   `json:"status"`
	Message  string   `json:"message,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Details  *details `json:"details,omitempty"`
	Code     int      `json:"code,omitempty"`
}

type details struct {
	Causes []cause `json:"causes"`
}

type cause struct {
	Type    string `json:"reason"`
	Message string `json:"message"`
}

const (
	succeeded = "Success"
	failed    = "Failure"
)

func statusOf(code int, err error) status {
	switch {
	case err != nil:
		return status{
			Status: failed, Reason: "InternalError", Code: http.StatusInternalServerError,
			Message: "Internal error occurred: " + err.Error(),
		}
	case code != 0:
		return status{
			Status: failed, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %d", code),
			Details: &details{Causes: []cause{{remotecommand.ExitCodeCauseType, strconv.Itoa(code)}}},
		}
	}
	return status{Status: succeeded}
}

// encode returns what goes to the error stream; nothing means success to
// clients that came before the JSON.
func (s status) encode(structured bool) []byte {
	if structured {
		b, err := json.Marshal(s)
		if err != nil {
			return []byte(s.Message) // cannot happen: strings and numbers alone
		}
		return b
	}
	if s.Status == succeeded {
		return nil
	}
	return []byte(s.Message)
}
