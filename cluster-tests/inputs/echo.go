// An ActionLoop program in Go.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	answers := json.NewEncoder(os.NewFile(3, "answers"))
	lines := bufio.NewReader(os.Stdin)
	for calls := 1; ; calls++ {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var request struct {
			Value struct {
				Name string `json:"name"`
			} `json:"value"`
		}
		if err := json.Unmarshal(line, &request); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("Go was called")
		greeting := fmt.Sprintf("Hello, %s!", request.Value.Name)
		if err := answers.Encode(map[string]any{"language": "Go", "greeting": greeting, "calls": calls}); err != nil {
			os.Exit(1)
		}
	}
}
