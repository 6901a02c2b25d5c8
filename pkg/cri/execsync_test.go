package cri

import (
	"bytes"
	"testing"
)

// TestBoundedOutput: what the budget allows is kept, of both streams together,
// and nothing of it is moved about.
func TestBoundedOutput(t *testing.T) {
	budget := &outputBudget{left: maxExecOutput}
	stdout, stderr := &boundedOutput{budget: budget}, &boundedOutput{budget: budget}
	chunk := bytes.Repeat([]byte("x"), 32<<10)
	if n, err := stderr.Write([]byte("first")); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	for range 2 * maxExecOutput / len(chunk) {
		if n, err := stdout.Write(chunk); n != len(chunk) || err != nil {
			t.Fatalf("wrote %d, %v: the command must not notice", n, err)
		}
	}
	if _, err := stderr.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	if got := len(stdout.b) + len(stderr.b); got != maxExecOutput {
		t.Errorf("kept %d bytes, want %d", got, maxExecOutput)
	}
	if string(stderr.b) != "first" {
		t.Errorf("stderr is %q", stderr.b)
	}
	if c := cap(stdout.b); c > maxExecOutput+len(chunk) {
		t.Errorf("stdout has room for %d bytes", c)
	}
	small := &boundedOutput{budget: &outputBudget{left: maxExecOutput}}
	if _, err := small.Write([]byte("ok\n")); err != nil || cap(small.b) > 64 {
		t.Errorf("three bytes take %d", cap(small.b))
	}
}
