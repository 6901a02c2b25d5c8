package spec

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ValidateExec checks a command line to run in a container.
func ValidateExec(cmd []string) error {
	if len(cmd) == 0 || cmd[0] == "" {
		return invalid("cmd", "is empty")
	}
	return validateArgv("cmd", cmd, nil)
}

// ValidateExecSync checks an ExecSync request but for its container, which may
// not exist, and that is another error.
func ValidateExecSync(r *runtimeapi.ExecSyncRequest) error {
	if r.GetTimeout() < 0 {
		return invalid("timeout", "%d is negative", r.GetTimeout())
	}
	return ValidateExec(r.GetCmd())
}

// ValidateExecStream checks a request for a streaming exec.
func ValidateExecStream(r *runtimeapi.ExecRequest) error {
	if err := validateStreams(r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTty()); err != nil {
		return err
	}
	return ValidateExec(r.GetCmd())
}

// ValidateAttach checks a request to attach to a container.
func ValidateAttach(r *runtimeapi.AttachRequest) error {
	return validateStreams(r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTty())
}

func validateStreams(stdin, stdout, stderr, tty bool) error {
	if tty && stderr {
		return invalid("stderr", "a terminal has no separate stderr")
	}
	if !stdin && !stdout && !stderr {
		return invalid("stdin", "at least one of stdin, stdout and stderr is needed")
	}
	return nil
}
