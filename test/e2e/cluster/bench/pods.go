package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/cri-node/cri-node/test/e2e/pace"
)

const namespace = "default"

// limit is how long one pod, or one burst, may take to come or go.
const limit = 2 * time.Minute

// busyboxPod is what is measured: it ends at once when it is told to.
func (a *arena) busyboxPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name: "main", Image: a.busybox, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{"sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"},
			}},
		},
	}
}

// witness sees pods become ready and go.
type witness struct {
	watch watch.Interface
	done  sync.WaitGroup

	mu          sync.Mutex
	ready, gone map[string]time.Time
	failed      error
	changed     chan struct{} // closed at the next change
}

func (a *arena) newWitness(ctx context.Context) (*witness, error) {
	now, err := a.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	seen, err := a.client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: now.ResourceVersion})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	w := &witness{watch: seen, ready: map[string]time.Time{}, gone: map[string]time.Time{}, changed: make(chan struct{})}
	w.done.Go(w.see)
	return w, nil
}

func (w *witness) close() {
	w.watch.Stop()
	w.done.Wait()
}

func (w *witness) see() {
	for event := range w.watch.ResultChan() {
		w.note(event, time.Now())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = errors.Join(w.failed, errors.New("the watch has ended"))
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *witness) note(event watch.Event, at time.Time) {
	pod, ok := event.Object.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if event.Type == watch.Deleted {
		w.gone[pod.Name] = at
	}
	if _, known := w.ready[pod.Name]; !known && ready(pod) {
		w.ready[pod.Name] = at
	}
	if pod.Status.Phase == corev1.PodFailed && pod.DeletionTimestamp == nil {
		w.failed = fmt.Errorf("pod %s has failed: %s", pod.Name, pod.Status.Message)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// await waits until all pods are in one of the maps.
func (w *witness) await(ctx context.Context, what map[string]time.Time, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, pace.Limit(limit))
	defer cancel()
	for {
		w.mu.Lock()
		missing := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !what[n].IsZero() })
		failed, changed := w.failed, w.changed
		w.mu.Unlock()
		if len(missing) == 0 || failed != nil {
			return failed
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for pods %v: %w", missing, ctx.Err())
		case <-changed:
		}
	}
}

// span is when a pod was asked for, and when it was as asked; stamp is the creation's
// time stamp.
type span struct{ asked, done, stamp time.Time }

// up makes pods, so many at a time, and waits until they are ready.
//
// kubelet counts from the creation's time stamp, which has no fraction of a second.
// The first of the n-th pods are therefore made in the n-th part of a second, mixed:
// all contenders then have the same fractions counted, and meet kubelet's look at
// the runtime, once a second, at all of its phases.
func (a *arena) up(ctx context.Context, w *witness, prefix string, parallel int) (map[string]span, error) {
	spans := map[string]span{}
	var mu sync.Mutex
	stamps := map[string]time.Time{}
	bursts := (a.options.pods + parallel - 1) / parallel
	for burst := range bursts {
		// 7 has no divisor in common with what one would ask for.
		phase := time.Second * time.Duration(2*(burst*7%bursts)+1) / time.Duration(2*bursts)
		if err := until(ctx, time.Now().Truncate(time.Second).Add(time.Second+phase)); err != nil {
			return nil, err
		}
		var names []string
		for i := burst * parallel; i < min(a.options.pods, (burst+1)*parallel); i++ {
			names = append(names, fmt.Sprintf("%s-%d", prefix, i))
		}
		asked, err := each(names, func(name string) error {
			made, err := a.client.CoreV1().Pods(namespace).Create(ctx, a.busyboxPod(name), metav1.CreateOptions{})
			mu.Lock()
			defer mu.Unlock()
			stamps[name] = made.GetCreationTimestamp().Time
			return err
		})
		if err == nil {
			err = w.await(ctx, w.ready, names)
		}
		if err == nil {
			err = a.touch(ctx, names[0])
		}
		if err != nil {
			return nil, fmt.Errorf("start pods: %w", err)
		}
		for _, n := range names {
			spans[n] = span{asked[n], w.ready[n], stamps[n]}
		}
	}
	return spans, nil
}

// touch makes a change of a pod that means nothing. A start is counted when kubelet
// next hears of a change, of any pod, after the API server has answered it that this
// one runs. Often it hears of that itself before it has the answer: then, on a node
// where nothing else goes on, it would count when the next pod is made.
func (a *arena) touch(ctx context.Context, name string) error {
	if err := until(ctx, time.Now().Add(30*time.Millisecond)); err != nil {
		return err
	}
	_, err := a.client.CoreV1().Pods(namespace).Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"touched":"yes"}}}`), metav1.PatchOptions{})
	return err
}

// down deletes what up has made.
func (a *arena) down(ctx context.Context, w *witness, prefix string, parallel int) (map[string]span, error) {
	spans := map[string]span{}
	for first := 0; first < a.options.pods; first += parallel {
		var names []string
		for i := first; i < min(a.options.pods, first+parallel); i++ {
			names = append(names, fmt.Sprintf("%s-%d", prefix, i))
		}
		asked, err := each(names, func(name string) error {
			return a.client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{})
		})
		if err == nil {
			err = w.await(ctx, w.gone, names)
		}
		if err != nil {
			return nil, fmt.Errorf("delete pods: %w", err)
		}
		for _, n := range names {
			spans[n] = span{asked: asked[n], done: w.gone[n]}
		}
	}
	return spans, nil
}

// each calls do for all names at once, and returns when each was called for.
func each(names []string, do func(string) error) (map[string]time.Time, error) {
	errs, asked := make([]error, len(names)), map[string]time.Time{}
	var group sync.WaitGroup
	for i, name := range names {
		asked[name] = time.Now()
		group.Go(func() { errs[i] = do(name) })
	}
	group.Wait()
	return asked, errors.Join(errs...)
}

// observed is the line in which kubelet tells what it counts.
var observed = regexp.MustCompile(`"Observed pod startup duration" pod="` + namespace + `/([^"]+)" podStartSLOduration=([0-9.e+-]+)`)

// startupsLogged are the durations that kubelet has counted so far for pod_start_sli
// of the pods whose names begin so, sorted, in seconds.
func startupsLogged(path, prefix string) ([]float64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []float64
	for _, m := range observed.FindAllSubmatch(data, -1) {
		if !strings.HasPrefix(string(m[1]), prefix) {
			continue
		}
		seconds, err := strconv.ParseFloat(string(m[2]), 64)
		if err != nil {
			return nil, fmt.Errorf("parse log of kubelet: %w", err)
		}
		all = append(all, seconds)
	}
	slices.Sort(all)
	return all, nil
}
