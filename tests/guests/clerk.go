// A guest of the size that programs of Go have: it packs what its arguments say, logs that as JSON, and sleeps.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"
)

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	words := regexp.MustCompile(`\w+`).FindAllString(strings.Join(os.Args[1:], " "), -1)
	var packed bytes.Buffer
	archive := gzip.NewWriter(&packed)
	if err := json.NewEncoder(archive).Encode(map[string]any{"words": words}); err != nil {
		log.Error("cannot encode", "error", err)
		os.Exit(1)
	}
	if err := archive.Close(); err != nil {
		log.Error("cannot pack", "error", err)
		os.Exit(1)
	}
	log.Info("packed", "words", len(words), "bytes", packed.Len())
	time.Sleep(24 * time.Hour)
}
