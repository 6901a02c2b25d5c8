// The shop's api keeps notes in the database: GET /notes lists them, POST /notes
// adds one. `api check` asks a running one whether it is well.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		return check(ctx)
	}
	password, err := os.ReadFile("/run/secrets/password")
	if err != nil {
		return err
	}
	if err := os.Setenv("PGPASSWORD", strings.TrimSpace(string(password))); err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	answer := func(pattern string, work func(r *http.Request) (string, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Api", name)
			text, err := work(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, text)
			log.Printf("%s %s", r.Method, r.URL.Path)
		})
	}
	answer("GET /{$}", func(*http.Request) (string, error) { return os.Getenv("GREETING") + "\n", nil })
	answer("GET /health", func(r *http.Request) (string, error) { return query(r.Context(), "select 'well'", "") })
	answer("GET /notes", func(r *http.Request) (string, error) {
		return query(r.Context(), "select text from notes order by id", "")
	})
	answer("POST /notes", func(r *http.Request) (string, error) {
		text, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, 1<<10))
		if err != nil {
			return "", err
		}
		return query(r.Context(), "insert into notes (text) values (:'text') returning id", string(text))
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	log.Print("ready")
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// query asks the database.
func query(ctx context.Context, sql, text string) (string, error) {
	cmd := exec.CommandContext(ctx, "psql", "-qAt", "-v", "ON_ERROR_STOP=1", "-v", "text="+text, "-f", "-")
	cmd.Stdin = strings.NewReader(sql)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return string(out), nil
}

func check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:8080/health", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return resp.Body.Close()
}
