package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	cri "k8s.io/cri-client/pkg"
)

// newStopPodsCommand makes "kube stop-pods": it asks the container runtime to stop and remove
// every pod, so that containers, shims, network namespaces and addresses go the way they came.
// The kubelet must not be running: it would start them again.
func newStopPodsCommand() *cobra.Command {
	var endpoint string
	var limit time.Duration
	command := &cobra.Command{
		Use:   "stop-pods",
		Short: "Stop and remove every pod of a container runtime",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(command.Context(), limit)
			defer cancel()
			return stopPods(ctx, endpoint, limit)
		},
	}
	command.Flags().StringVar(&endpoint, "endpoint", "", "socket of the runtime, unix:///...")
	command.Flags().DurationVar(&limit, "limit", 60*time.Second, "give up after this time")
	_ = command.MarkFlagRequired("endpoint")
	return command
}

func stopPods(ctx context.Context, endpoint string, limit time.Duration) error {
	runtime, err := cri.NewRemoteRuntimeService(endpoint, limit, nil, nil)
	if err != nil {
		return fmt.Errorf("container runtime at %s: %w", endpoint, err)
	}
	pods, err := runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return fmt.Errorf("list of pods: %w", err)
	}
	// One goroutine a pod: stopping waits for the containers, and they need not queue.
	results := make(chan error, len(pods))
	for _, pod := range pods {
		go func() {
			name := pod.Metadata.Namespace + "/" + pod.Metadata.Name
			if err := runtime.StopPodSandbox(ctx, pod.Id); err != nil {
				results <- fmt.Errorf("stop %s: %w", name, err)
				return
			}
			if err := runtime.RemovePodSandbox(ctx, pod.Id); err != nil {
				results <- fmt.Errorf("remove %s: %w", name, err)
				return
			}
			fmt.Println("removed", name)
			results <- nil
		}()
	}
	var failures []error
	for range pods {
		failures = append(failures, <-results)
	}
	return errors.Join(failures...)
}
