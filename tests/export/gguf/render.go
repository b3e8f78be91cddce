// Renders a template as Ollama does: JSON lines of {"template": text, "data": variables} in, JSON strings out.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<20)
	for lines.Scan() {
		var task struct {
			Template string
			Data     map[string]any
		}
		if err := json.Unmarshal(lines.Bytes(), &task); err != nil {
			panic(err)
		}
		var out strings.Builder
		if err := template.Must(template.New("").Option("missingkey=error").Parse(task.Template)).Execute(&out, task.Data); err != nil {
			panic(err)
		}
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetEscapeHTML(false)
		encoder.Encode(out.String())
	}
}
