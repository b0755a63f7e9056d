// An admission policy: images are named by a tag that says something, or by their digest. `latest` says nothing of which version
// it is, and neither does no tag at all. The setting `exemptNamespaces` is a list of namespaces that may do as they like.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

type settings struct {
	ExemptNamespaces []string `json:"exemptNamespaces"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

type question struct {
	Settings settings `json:"settings"`
	Request  struct {
		Namespace string `json:"namespace"`
		Object    struct {
			Spec struct {
				InitContainers      []container `json:"initContainers"`
				Containers          []container `json:"containers"`
				EphemeralContainers []container `json:"ephemeralContainers"`
			} `json:"spec"`
		} `json:"object"`
	} `json:"request"`
}

func main() {
	var answer any
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "validate":
		answer, err = validate()
	case len(os.Args) == 2 && os.Args[1] == "validate-settings":
		answer, err = validateSettings()
	default:
		err = fmt.Errorf("the argument is validate or validate-settings")
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func validateSettings() (any, error) {
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	var given settings
	if err := decoder.Decode(&given); err != nil {
		return map[string]any{"valid": false, "message": err.Error()}, nil
	}
	return map[string]any{"valid": true}, nil
}

func validate() (any, error) {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return nil, err
	}
	if slices.Contains(asked.Settings.ExemptNamespaces, asked.Request.Namespace) {
		return map[string]any{"accepted": true}, nil
	}
	spec := asked.Request.Object.Spec
	for _, each := range slices.Concat(spec.InitContainers, spec.Containers, spec.EphemeralContainers) {
		if !isPinned(each.Image) {
			message := fmt.Sprintf("container %s: the image %s has no tag but latest, and no digest", each.Name, each.Image)
			return map[string]any{"accepted": false, "message": message, "code": 400}, nil
		}
	}
	return map[string]any{"accepted": true}, nil
}

func isPinned(image string) bool {
	if strings.Contains(image, "@sha256:") {
		return true
	}
	last := image[strings.LastIndex(image, "/")+1:]
	_, tag, isTagged := strings.Cut(last, ":")
	return isTagged && tag != "latest"
}
