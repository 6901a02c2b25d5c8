package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// get fetches a URL, with the pod's own resolver, and writes the answer; one that
// is not good is an error.
func get(args []string) error {
	f := flag.NewFlagSet("get", flag.ExitOnError)
	limit := f.Duration("timeout", 3*time.Second, "limit of the whole request")
	if err := f.Parse(args); err != nil {
		return err
	}
	client := http.Client{Timeout: *limit}
	answer, err := client.Get(f.Arg(0))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", f.Arg(0), answer.Status)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}
