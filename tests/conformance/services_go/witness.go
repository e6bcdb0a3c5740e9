package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

var (
	prefix    = os.Getenv("PREFIX")
	version   = os.Getenv("VERSION")
	directory = os.Getenv("WITNESS_DIR")
)

// note appends a line; how many there are with it.
func note(witness string, text any) (int, error) {
	path := filepath.Join(directory, witness)
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Fprintf(file, "%v\n", text)
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return 0, err
	}
	lines, err := os.ReadFile(path)
	return bytes.Count(lines, []byte("\n")), err
}
