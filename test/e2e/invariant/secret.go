package invariant

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// CheckSecrets looks for secrets in the files below the node's directories, its
// log, and what anybody can see of the processes. It does not name the secret.
func CheckSecrets(c Config, processes []int, secrets []string) ([]string, error) {
	if len(secrets) == 0 {
		return nil, nil
	}
	mounted, err := mountPoints()
	if err != nil {
		return nil, err
	}
	var files []string
	for _, top := range []string{c.Root, c.State} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case mounted[path] && d.IsDir():
				return fs.SkipDir
			case d.Type().IsRegular():
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("walk %s: %w", top, err)
		}
	}
	if c.Log != "" {
		files = append(files, c.Log)
	}
	for _, pid := range processes {
		files = append(files, fmt.Sprintf("/proc/%d/cmdline", pid), fmt.Sprintf("/proc/%d/environ", pid))
	}
	var wrong []string
	for _, path := range files {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		} else if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(secrets, func(s string) bool { return bytes.Contains(data, []byte(s)) }); i >= 0 {
			wrong = append(wrong, fmt.Sprintf("%s holds secret %d", path, i))
		}
	}
	return wrong, nil
}
