package cluster

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/suite"
)

// template makes a pod a template for a controller.
func template(p *corev1.Pod) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec}
}

// TestJob: several completions, two at a time, one of them after a failure.
func TestJob(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	completions, parallelism, limit := int32(4), int32(2), int32(4)
	mode := batchv1.IndexedCompletion
	p := pod("job", shell("c", `[ $JOB_COMPLETION_INDEX != 2 ] || mkdir /shared/failed || exit 0; [ $JOB_COMPLETION_INDEX != 2 ]; code=$?; echo index $JOB_COMPLETION_INDEX; exit $code`))
	onHost(t, p)
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec:       batchv1.JobSpec{Completions: &completions, Parallelism: &parallelism, BackoffLimit: &limit, CompletionMode: &mode, Template: template(p)},
	}
	jobs := shared.Client.BatchV1().Jobs(ns)
	_, err := jobs.Create(t.Context(), job, metav1.CreateOptions{})
	must(t, err)
	suite.Await(t, suite.Limit, "job is complete", func(ctx context.Context) (bool, error) {
		now, err := jobs.Get(ctx, "job", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range now.Status.Conditions {
			if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
				return false, fmt.Errorf("job failed: %s", c.Message)
			}
		}
		return now.Status.Succeeded == completions && now.Status.Failed == 1, nil
	})
}

// TestCronJob: a job at the next minute.
func TestCronJob(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("cron", shell("c", "echo tick"))
	_, err := shared.Client.BatchV1().CronJobs(ns).Create(t.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "cron"},
		Spec:       batchv1.CronJobSpec{Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template(p)}}},
	}, metav1.CreateOptions{})
	must(t, err)
	suite.Await(t, suite.Limit, "a job of the cron job succeeds", func(ctx context.Context) (bool, error) {
		jobs, err := shared.Client.BatchV1().Jobs(ns).List(ctx, metav1.ListOptions{})
		if err != nil || len(jobs.Items) == 0 {
			return false, err
		}
		return jobs.Items[0].Status.Succeeded == 1, nil
	})
}

// deployment has replicas pods that show their version over HTTP and are ready
// once they do.
func deployment(name, version string, replicas int32) *appsv1.Deployment {
	c := shell("c", "mkdir -p /tmp/www; echo "+version+" > /tmp/www/version; httpd -f -p 8080 -h /tmp/www & "+idle)
	c.ReadinessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/version", Port: number(8080)}})
	p := pod(name, c)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: p.Labels}, Template: template(p)},
	}
}

func rolledOut(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == *d.Spec.Replicas &&
		d.Status.Replicas == *d.Spec.Replicas && d.Status.AvailableReplicas == *d.Spec.Replicas
}

// TestDeploymentRollout: comes up, changes over without going below what it may,
// scales, and goes.
func TestDeploymentRollout(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	deployments := shared.Client.AppsV1().Deployments(ns)
	d, err := deployments.Create(t.Context(), deployment("web", "one", 3), metav1.CreateOptions{})
	must(t, err)
	await := func(what string) {
		suite.Await(t, suite.Limit, what, func(ctx context.Context) (bool, error) {
			if d, err = deployments.Get(ctx, "web", metav1.GetOptions{}); err != nil {
				return false, err
			}
			if d.Status.ObservedGeneration >= d.Generation && d.Status.AvailableReplicas > 0 && d.Status.AvailableReplicas < 2 && what == "second rollout" {
				return false, fmt.Errorf("only %d available during the change", d.Status.AvailableReplicas)
			}
			return rolledOut(d), nil
		})
	}
	await("first rollout")
	d.Spec.Template.Spec.Containers[0] = deployment("web", "two", 3).Spec.Template.Spec.Containers[0]
	_, err = deployments.Update(t.Context(), d, metav1.UpdateOptions{})
	must(t, err)
	await("second rollout")
	pods, err := shared.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	must(t, err)
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			if got := get(t, ns, p.Name, 8080, "/version"); got != "two\n" {
				t.Errorf("%s shows %q", p.Name, got)
			}
		}
	}
	one := int32(1)
	d.Spec.Replicas = &one
	d.ResourceVersion = ""
	_, err = deployments.Update(t.Context(), d, metav1.UpdateOptions{})
	must(t, err)
	await("scaled down")
}

// TestDaemonSet: one pod on each node.
func TestDaemonSet(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	p := pod("each", shell("c", idle))
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	sets := shared.Client.AppsV1().DaemonSets(ns)
	_, err := sets.Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "each"},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: p.Labels}, Template: template(p)},
	}, metav1.CreateOptions{})
	must(t, err)
	suite.Await(t, suite.Limit, "the set is on each node", func(ctx context.Context) (bool, error) {
		now, err := sets.Get(ctx, "each", metav1.GetOptions{})
		return err == nil && now.Status.DesiredNumberScheduled > 0 && now.Status.NumberReady == now.Status.DesiredNumberScheduled, err
	})
}

// TestStatefulSet: pods by number, one after another, with names that stay.
func TestStatefulSet(t *testing.T) {
	t.Parallel()
	ns := shared.Namespace(t)
	replicas := int32(2)
	p := pod("ordinal", shell("c", "hostname; "+idle))
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	sets := shared.Client.AppsV1().StatefulSets(ns)
	_, err := sets.Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "ordinal"},
		Spec:       appsv1.StatefulSetSpec{Replicas: &replicas, ServiceName: "ordinal", Selector: &metav1.LabelSelector{MatchLabels: p.Labels}, Template: template(p)},
	}, metav1.CreateOptions{})
	must(t, err)
	suite.Await(t, suite.Limit, "both pods are ready", func(ctx context.Context) (bool, error) {
		now, err := sets.Get(ctx, "ordinal", metav1.GetOptions{})
		return err == nil && now.Status.ReadyReplicas == replicas, err
	})
	if got := logsOf(t, ns, "ordinal-1", "c"); got != "ordinal-1\n" {
		t.Errorf("host name %q", got)
	}
}
