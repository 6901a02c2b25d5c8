package node

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cri-node/cri-node/pkg/cri"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
	"github.com/cri-node/cri-node/pkg/sandbox"
)

// whyLines is how many lines a story has at most; the oldest are left out.
const whyLines = 40

// Why tells the story of a container or a pod: what was done to it with times and
// stages, how it ended, and what to do about it. A pod that could not be made is
// known by its name alone.
func (s *system) Why(_ context.Context, r *nodev1.WhyRequest) (*nodev1.WhyResponse, error) {
	if r.GetObject() == "" {
		return nil, invalid("object: is empty")
	}
	t, notContainer := s.find(r.GetObject())
	if notContainer == nil {
		return s.whyContainer(t), nil
	}
	if sb := s.findPod(r.GetObject()); sb != nil {
		return s.whyPod(sb), nil
	}
	if story := s.whyNotThere(r.GetObject()); story != nil {
		return story, nil
	}
	return nil, notFound("no container or pod %q is here, and none of that name was asked for since the daemon started", r.GetObject())
}

// findPod finds a pod by its name, NAMESPACE/NAME, id or the beginning of its id;
// of several with a name, the newest.
func (s *Server) findPod(ref string) *sandbox.Sandbox {
	var found *sandbox.Sandbox
	for _, sb := range s.config.Sandboxes.List() {
		st := sb.Status()
		named := ref == st.Params.Name || ref == st.Params.Namespace+"/"+st.Params.Name
		if !named && (len(ref) < 4 || !strings.HasPrefix(st.ID, ref)) {
			continue
		}
		if found == nil || found.Status().CreatedAt.Before(st.CreatedAt) {
			found = sb
		}
	}
	return found
}

func (s *Server) whyContainer(t target) *nodev1.WhyResponse {
	st := t.c.Status()
	story := &nodev1.WhyResponse{Summary: s.summary(t, st)}
	s.addCalls(story, func(d cri.Done) bool { return d.ContainerID == st.ID || d.SandboxID == st.Group })
	add := func(at time.Time, text string) {
		if !at.IsZero() {
			story.Lines = append(story.Lines, &nodev1.WhyResponse_Line{Time: at.UnixNano(), Text: text})
		}
	}
	add(st.CreatedAt, "created from "+s.imageName(t)+" with "+st.Handler)
	add(st.StartedAt, "started")
	if st.State == runtime.Exited {
		add(st.FinishedAt, ended(st))
	}
	s.addEvents(story, st.ID)
	finish(story)
	story.Advice = s.advice(t, st)
	story.Summary = printable(story.Summary)
	return story
}

// summary answers in one sentence.
func (s *Server) summary(t target, st *runtime.Status) string {
	name := s.title(t)
	switch state := t.e.state(st); state {
	case "running":
		text := fmt.Sprintf("container %s runs since %s", name, st.StartedAt.Format(time.RFC3339))
		if t.e != nil {
			if h := t.e.healthState(); h.Status != "" {
				text += fmt.Sprintf(" and is %s", h.Status)
			}
		}
		return text
	case "restarting":
		return fmt.Sprintf("container %s %s, and is about to be started again", name, ended(st))
	case "exited", "dead":
		return fmt.Sprintf("container %s %s", name, ended(st))
	default:
		return fmt.Sprintf("container %s is %s", name, state)
	}
}

// ended says how a container ended.
func ended(st *runtime.Status) string {
	text := fmt.Sprintf("exited with code %d", st.ExitCode)
	if st.Reason != "" && st.Reason != runtime.ReasonCompleted {
		text += " (" + st.Reason + ")"
	}
	if st.Message != "" {
		text += ": " + st.Message
	}
	return text
}

// advice is what a person can do about how a container is.
func (s *Server) advice(t target, st *runtime.Status) []string {
	var advice []string
	name := s.title(t)
	switch {
	case st.State == runtime.Exited && st.Reason == runtime.ReasonOOMKilled:
		limit := ""
		if config, err := s.config.CRI.ContainerConfig(st.ID); err == nil {
			if n := config.GetLinux().GetResources().GetMemoryLimitInBytes(); n > 0 {
				limit = fmt.Sprintf(", which is %d MiB", n>>20)
			}
		}
		advice = append(advice, "it needed more memory than its limit"+limit+": raise it (run -m, or resources.limits.memory)")
	case st.State == runtime.Exited && st.Reason == runtime.ReasonStartError:
		advice = append(advice, "its program could not be started: look at the command, the entrypoint and the mounts")
	case st.State == runtime.Exited && st.ExitCode == 137:
		advice = append(advice, "it was killed with SIGKILL: by a stop whose time was over, or by somebody else")
	case st.State == runtime.Exited && st.ExitCode == 143:
		advice = append(advice, "it ended with SIGTERM, as a stop asks for")
	}
	if st.State == runtime.Exited && st.LogPath != "" && st.Reason != runtime.ReasonStartError {
		advice = append(advice, fmt.Sprintf("what it said last: cri-node logs --tail 20 %s", name))
	}
	if t.e != nil && t.e.healthState().Status == "unhealthy" {
		advice = append(advice, fmt.Sprintf("what its health check said: cri-node inspect --format '{{json .State.Health}}' %s", name))
	}
	return advice
}

func (s *Server) whyPod(sb *sandbox.Sandbox) *nodev1.WhyResponse {
	st := sb.Status()
	name := st.Params.Namespace + "/" + st.Params.Name
	story := &nodev1.WhyResponse{Summary: fmt.Sprintf("pod %s is %s", name, st.State)}
	if st.Reason != "" {
		story.Summary += " (" + st.Reason + ")"
	}
	for _, ip := range st.IPs {
		story.Summary += ", " + ip.String()
	}
	if st.Broken != "" {
		story.Advice = append(story.Advice, "its record could not be read ("+st.Broken+"): remove it")
	}
	if st.Debt != "" {
		story.Advice = append(story.Advice, "its network could not be released yet: "+st.Debt)
	}
	mine := func(d cri.Done) bool { return d.SandboxID == st.ID || d.Pod == st.Params.Key }
	s.addCalls(story, mine)
	story.Advice = append(story.Advice, s.unmade(st.ID, mine)...)
	for _, c := range s.config.Containers.Group(st.ID) {
		if t, ok := s.seen(c); ok {
			story.Advice = append(story.Advice, s.summary(t, c.Status()))
		}
	}
	finish(story)
	return story
}

// unmade says which containers of a pod are wanting, and which images: those whose
// last call failed.
func (s *Server) unmade(podID string, match func(cri.Done) bool) []string {
	last := map[string]cri.Done{}
	for _, d := range s.config.CRI.Chronicle(match) {
		switch d.Method {
		case "PullImage":
			last["image "+d.Image] = d
		case "CreateContainer":
			last["container "+d.Container] = d
		}
	}
	for _, c := range s.config.Containers.Group(podID) {
		delete(last, "container "+c.Status().Name)
	}
	var all []string
	for _, what := range slices.Sorted(maps.Keys(last)) {
		d := last[what]
		switch {
		case d.Err == nil:
		case d.Method == "PullImage":
			all = append(all, printable(fmt.Sprintf("%s could not be pulled: %v", what, d.Err)))
		default:
			all = append(all, printable(fmt.Sprintf("%s could not be made: %v", what, d.Err)))
		}
	}
	return all
}

// whyNotThere tells of a pod or container that could not be made, or was removed.
func (s *Server) whyNotThere(ref string) *nodev1.WhyResponse {
	story := &nodev1.WhyResponse{}
	var last cri.Done
	s.addCalls(story, func(d cri.Done) bool {
		pod := d.Pod.Name != "" && (ref == d.Pod.Name || ref == d.Pod.Namespace+"/"+d.Pod.Name)
		container := d.Container != "" && (ref == d.Container || ref == d.Pod.Name+"/"+d.Container || ref == d.Pod.Namespace+"/"+d.Pod.Name+"/"+d.Container)
		mine := pod || container ||
			len(ref) >= 4 && (strings.HasPrefix(d.SandboxID, ref) || strings.HasPrefix(d.ContainerID, ref))
		if mine {
			last = d
		}
		return mine
	})
	if len(story.Lines) == 0 {
		return nil
	}
	finish(story)
	story.Summary = fmt.Sprintf("%s is not here any more: the last call about it was %s", ref, last.Method)
	if last.Err != nil && (last.Method == "RunPodSandbox" || last.Method == "CreateContainer") {
		story.Summary = printable(fmt.Sprintf("%s could not be made: %v", ref, last.Err))
	}
	return story
}

// addCalls adds the remembered calls that match.
func (s *Server) addCalls(story *nodev1.WhyResponse, match func(cri.Done) bool) {
	for _, d := range s.config.CRI.Chronicle(match) {
		text := d.Method
		if d.Container != "" {
			text += " " + d.Container
		}
		if d.Image != "" {
			text += " " + d.Image
		}
		if d.Stages != "" {
			text += " (" + d.Stages + ")"
		}
		if d.Err != nil {
			text += " failed: " + d.Err.Error()
		}
		story.Lines = append(story.Lines, &nodev1.WhyResponse_Line{Time: d.At.UnixNano(), Duration: int64(d.Took), Text: printable(text)})
	}
}

// addEvents adds what happened to a container by itself.
func (s *Server) addEvents(story *nodev1.WhyResponse, id string) {
	for _, e := range s.events.Past() {
		if e.GetId() != id {
			continue
		}
		text := e.GetAction()
		switch {
		case text == "kill" && e.GetAttributes()["signal"] != "":
			text += " with signal " + e.GetAttributes()["signal"]
		case text == "die":
			text = "exited with code " + e.GetAttributes()["exitCode"]
		case slices.Contains([]string{"oom", "kill", "stop", "restart", "pause", "unpause", "update", "rename"}, text), strings.HasPrefix(text, "health_status"):
		default:
			continue
		}
		story.Lines = append(story.Lines, &nodev1.WhyResponse_Line{Time: e.GetTime(), Text: text})
	}
}

// finish puts the lines of a story in order, and leaves out the oldest.
func finish(story *nodev1.WhyResponse) {
	slices.SortStableFunc(story.Lines, func(a, b *nodev1.WhyResponse_Line) int { return cmp.Compare(a.GetTime(), b.GetTime()) })
	story.Lines = story.Lines[max(0, len(story.Lines)-whyLines):]
}
