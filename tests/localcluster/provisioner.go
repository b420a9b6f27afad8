package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const provisionerName = "localcluster/folder"

// folders makes a folder under root for each claim and a hostPath volume that points at it.
//
// All nodes are namespaces of one machine, so a folder can be seen from each of them: a claim that many nodes may
// mount gets a volume without node affinity, any other one is pinned to the node that its first pod was scheduled to,
// as a real local disk would be.
type folders struct{ root string }

var _ controller.Provisioner = folders{}

func newProvisionerCommand() *cobra.Command {
	var kubeconfig, root string
	command := &cobra.Command{
		Use:  "provisioner",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return provisionVolumes(command.Context(), kubeconfig, root)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&root, "root", "", "the folder that holds a folder for each volume")
	return command
}

func provisionVolumes(ctx context.Context, kubeconfig, root string) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("--root must be an absolute path, not %q", root)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	controller.NewProvisionController(
		ctx, client, provisionerName, folders{root}, controller.LeaderElection(false),
	).Run(ctx)
	return nil
}

func (f folders) Provision(
	_ context.Context, options controller.ProvisionOptions,
) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	claim := options.PVC
	if claim.Spec.Selector != nil {
		return nil, controller.ProvisioningFinished, errors.New("a claim with a selector can't be provisioned")
	}
	path := filepath.Join(f.root, options.PVName)
	if err := makeWritable(path); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      claim.Spec.Resources.Requests,
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			PersistentVolumeSource:        hostPath(path),
		},
	}
	if !sharedByNodes(claim.Spec.AccessModes) && options.SelectedNodeName != "" {
		volume.Spec.NodeAffinity = onlyOn(options.SelectedNodeName)
	}
	return volume, controller.ProvisioningFinished, nil
}

func (f folders) Delete(_ context.Context, volume *corev1.PersistentVolume) error {
	if volume.Spec.HostPath == nil || filepath.Dir(volume.Spec.HostPath.Path) != f.root {
		return &controller.IgnoredError{Reason: "its folder is not below " + f.root}
	}
	return os.RemoveAll(volume.Spec.HostPath.Path)
}

// makeWritable leaves the folder open to every user: fsGroup does not apply to hostPath volumes.
func makeWritable(path string) error {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	return os.Chmod(path, 0o777) // past the umask
}

func hostPath(path string) corev1.PersistentVolumeSource {
	kind := corev1.HostPathDirectoryOrCreate
	return corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}
}

func sharedByNodes(modes []corev1.PersistentVolumeAccessMode) bool {
	return slices.Contains(modes, corev1.ReadWriteMany) || slices.Contains(modes, corev1.ReadOnlyMany)
}

func onlyOn(node string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}},
	}}}}
}
