package spec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// User is who a container's processes run as.
type User struct {
	UID, GID uint32
	// Groups are sorted and include GID: without the primary group among them
	// a file's permissions that deny a group something could be passed by
	// (CVE-2023-25173).
	Groups []uint32
}

// CRI is the user as ContainerStatus has it.
func (u User) CRI() *runtimeapi.ContainerUser {
	l := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.Groups {
		l.SupplementalGroups = append(l.SupplementalGroups, int64(g))
	}
	return &runtimeapi.ContainerUser{Linux: l}
}

const (
	// maxAccountFile bounds /etc/passwd and /etc/group of an image
	// (CVE-2025-4437, CVE-2026-47262).
	maxAccountFile = 10 << 20
	// maxGroups is NGROUPS_MAX, more the kernel refuses.
	maxGroups = 65536
)

// account is what a request or an image says of a user, before its image's
// files were read. Of each pair the id counts if it is set, else the name.
type account struct {
	field     string // of the request or image, for errors
	name      string
	uid       *uint32
	groupName string
	gid       *uint32
}

// setUser resolves the user inside the root file system.
func (b *builder) setUser(context.Context) error {
	a, err := requestedAccount(b.sc, b.image.Config.User)
	if b.in.Extras.User != "" {
		a, err = parseUser("user", b.in.Extras.User)
	}
	if err != nil {
		return err
	}
	files, err := openAccounts(b.in.Rootfs)
	if err != nil {
		return err
	}
	u, err := files.resolve(a, b.sc)
	if err != nil {
		return err
	}
	if u.Groups, err = files.addGroups(u.Groups, b.in.Extras.Groups); err != nil {
		return err
	}
	if err := b.checkMappedUser(a.field, u); err != nil {
		return err
	}
	b.out.User = u
	b.spec.Process.User = specs.User{UID: u.UID, GID: u.GID, AdditionalGids: slices.Clone(u.Groups)}
	return nil
}

// requestedAccount takes the request's user, else the image's, else root.
func requestedAccount(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) (a account, err error) {
	switch {
	case sc.GetRunAsUser() != nil:
		uid := uint32(sc.GetRunAsUser().GetValue()) // validated
		a = account{field: fieldSecurity + ".run_as_user", uid: &uid}
	case sc.GetRunAsUsername() != "":
		a = account{field: fieldSecurity + ".run_as_username", name: sc.GetRunAsUsername()}
	default:
		if a, err = parseUser("image config.User", imageUser); err != nil {
			return a, err
		}
	}
	if g := sc.GetRunAsGroup(); g != nil {
		gid := uint32(g.GetValue()) // validated
		a.gid, a.groupName = &gid, ""
	}
	return a, nil
}

// parseUser reads what an image has for USER: empty, user or user:group, each a
// name or a number. field is for errors.
func parseUser(field, s string) (account, error) {
	a := account{field: field}
	if s == "" {
		a.uid = new(uint32)
		return a, nil
	}
	user, group, hasGroup := strings.Cut(s, ":")
	var err error
	if a.uid, err = parseID(user); err != nil {
		return a, invalid(a.field, "%s: user %v", quote(s), err)
	}
	if a.uid == nil {
		a.name = user
	}
	if !hasGroup {
		return a, nil
	}
	if a.gid, err = parseID(group); err != nil {
		return a, invalid(a.field, "%s: group %v", quote(s), err)
	}
	if a.gid == nil {
		a.groupName = group
	}
	return a, nil
}

// parseID tells numbers from names. What looks like a number in any notation is
// one or is refused, and never becomes a name: an image could have a user named
// 4294967296 with uid 0, and did get past runAsNonRoot with it
// (CVE-2024-40635, CVE-2026-46680). A name gives nil.
func parseID(s string) (*uint32, error) {
	if isDecimal(s) {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n > math.MaxInt32 {
			return nil, errors.New("is not in 0..2147483647")
		}
		id := uint32(n)
		return &id, nil
	}
	return nil, checkAccountName(s)
}

// isDecimal is true for the one usual way to write a number that is not
// negative.
func isDecimal(s string) bool {
	if s == "" || (len(s) > 1 && s[0] == '0') {
		return false
	}
	return strings.Trim(s, "0123456789") == ""
}

// checkAccountName refuses names that cannot be in /etc/passwd and names that
// some parser takes for a number.
func checkAccountName(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	if len(s) > 256 {
		return errors.New("is longer than 256 bytes")
	}
	for _, r := range s {
		if r == ':' || r == '/' || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return fmt.Errorf("has the character %q", r)
		}
	}
	first, _ := firstRune(strings.TrimLeft(s, "+-."))
	if !unicode.IsNumber(first) {
		if s[0] == '+' || s[0] == '-' {
			return errors.New("starts with a sign")
		}
		return nil
	}
	numeric := func(r rune) bool { return unicode.IsNumber(r) || strings.ContainsRune("abcdefABCDEFxXoO_.+-", r) }
	if strings.TrimFunc(s, numeric) == "" {
		return errors.New("looks like a number but is no plain decimal one")
	}
	return nil
}

func firstRune(s string) (rune, bool) {
	for _, r := range s {
		return r, true
	}
	return 0, false
}

// accounts has the content of a root file system's account files.
type accounts struct{ passwd, group []byte }

func openAccounts(rootfs string) (accounts, error) {
	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return accounts{}, fmt.Errorf("open root file system: %w", err)
	}
	var a accounts
	if a.passwd, err = readAccountFile(root, "/etc/passwd"); err == nil {
		a.group, err = readAccountFile(root, "/etc/group")
	}
	return a, errors.Join(err, root.Close())
}

// readAccountFile reads a small regular file inside root. A file that is not
// there is empty. It opens the path without reading first: an image may have a
// FIFO there, whose opening would wait for ever, or a device.
func readAccountFile(root *os.File, path string) (data []byte, err error) {
	field := "image " + path
	handle, err := pathrs.OpenatInRoot(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, invalid(field, "open: %v", err)
	}
	defer func() { err = errors.Join(err, handle.Close()) }()
	info, err := handle.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if !info.Mode().IsRegular() {
		return nil, invalid(field, "is no regular file")
	}
	if info.Size() > maxAccountFile {
		return nil, invalid(field, "is larger than %d bytes", maxAccountFile)
	}
	f, err := pathrs.Reopen(handle, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, maxAccountFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if len(data) > maxAccountFile {
		return nil, invalid(field, "is larger than %d bytes", maxAccountFile)
	}
	return data, nil
}

// resolve finds ids and groups. Groups come from the image only by the name
// that the image gives the user, and only under the policy Merge.
func (f accounts) resolve(a account, sc *runtimeapi.LinuxContainerSecurityContext) (User, error) {
	var u User
	name := a.name
	if a.uid != nil {
		u.UID = *a.uid
		if entry, ok := f.userByID(*a.uid); ok {
			name, u.GID = entry.name, entry.gid
		}
	} else {
		entry, ok, err := f.userByName(a.name)
		if err != nil || !ok {
			return User{}, invalid(a.field, "user %s is not in the image's /etc/passwd, or its line is broken", quote(a.name))
		}
		u.UID, u.GID = entry.uid, entry.gid
	}
	switch {
	case a.gid != nil:
		u.GID = *a.gid
	case a.groupName != "":
		gid, ok := f.groupByName(a.groupName)
		if !ok {
			return User{}, invalid(a.field, "group %s is not in the image's /etc/group, or its line is broken", quote(a.groupName))
		}
		u.GID = gid
	}
	groups := map[uint32]bool{u.GID: true}
	for _, g := range sc.GetSupplementalGroups() {
		groups[uint32(g)] = true // validated
	}
	if sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge && name != "" {
		f.groupsOf(name, groups)
	}
	if len(groups) > maxGroups {
		return User{}, invalid(a.field, "is in more than %d groups", maxGroups)
	}
	for g := range groups {
		u.Groups = append(u.Groups, g)
	}
	slices.Sort(u.Groups)
	return u, nil
}

// addGroups adds groups by name or number to sorted ones.
func (f accounts) addGroups(groups []uint32, more []string) ([]uint32, error) {
	for _, name := range more {
		id, err := parseID(name)
		if err != nil {
			return nil, invalid("group_add", "%s %v", quote(name), err)
		}
		if id == nil {
			gid, ok := f.groupByName(name)
			if !ok {
				return nil, invalid("group_add", "group %s is not in the image's /etc/group, or its line is broken", quote(name))
			}
			id = &gid
		}
		groups = append(groups, *id)
	}
	if len(groups) > maxGroups {
		return nil, invalid("group_add", "more than %d groups", maxGroups)
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}

// entry is a line of /etc/passwd.
type entry struct {
	name     string
	uid, gid uint32
}

// userByName finds the first line with a name. A line whose ids cannot be
// believed is an error, not another user.
func (f accounts) userByName(name string) (entry, bool, error) {
	for line := range bytes.Lines(f.passwd) {
		fields := bytes.SplitN(bytes.TrimRight(line, "\r\n"), []byte(":"), 5)
		if string(fields[0]) != name {
			continue
		}
		e, ok := parseEntry(fields)
		if !ok {
			return entry{}, false, fmt.Errorf("broken line of user %s", quote(name))
		}
		return e, true, nil
	}
	return entry{}, false, nil
}

// userByID finds the first whole line with an id.
func (f accounts) userByID(uid uint32) (entry, bool) {
	want := []byte(strconv.FormatUint(uint64(uid), 10))
	for line := range bytes.Lines(f.passwd) {
		fields := bytes.SplitN(bytes.TrimRight(line, "\r\n"), []byte(":"), 5)
		if len(fields) < 4 || !bytes.Equal(fields[2], want) {
			continue
		}
		if e, ok := parseEntry(fields); ok {
			return e, true
		}
	}
	return entry{}, false
}

func parseEntry(fields [][]byte) (entry, bool) {
	if len(fields) < 4 {
		return entry{}, false
	}
	uid, uidErr := parseID(string(fields[2]))
	gid, gidErr := parseID(string(fields[3]))
	if uidErr != nil || gidErr != nil || uid == nil || gid == nil {
		return entry{}, false
	}
	return entry{name: string(fields[0]), uid: *uid, gid: *gid}, true
}

// groupByName finds the id in the first line with a group's name.
func (f accounts) groupByName(name string) (uint32, bool) {
	for line := range bytes.Lines(f.group) {
		fields := bytes.SplitN(bytes.TrimRight(line, "\r\n"), []byte(":"), 4)
		if len(fields) < 3 || string(fields[0]) != name {
			continue
		}
		gid, err := parseID(string(fields[2]))
		if err != nil || gid == nil {
			return 0, false
		}
		return *gid, true
	}
	return 0, false
}

// groupsOf adds the groups that list a user as a member. It stops one beyond
// what the kernel takes.
func (f accounts) groupsOf(name string, groups map[uint32]bool) {
	for line := range bytes.Lines(f.group) {
		fields := bytes.SplitN(bytes.TrimRight(line, "\r\n"), []byte(":"), 5)
		if len(fields) < 4 || !slices.Contains(strings.Split(string(fields[3]), ","), name) {
			continue
		}
		if gid, err := parseID(string(fields[2])); err == nil && gid != nil {
			groups[*gid] = true
		}
		if len(groups) > maxGroups {
			return
		}
	}
}
