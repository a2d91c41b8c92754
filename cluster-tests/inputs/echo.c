/* An ActionLoop program: a line of JSON on stdin, a line of JSON on descriptor 3. It answers how often it was called and
   how many bytes the line had, to show that the same process serves a warm container. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    FILE *answers = fdopen(3, "w");
    char *line = NULL;
    size_t capacity = 0;
    int calls = 0;
    if (!answers) return 1;
    ssize_t length;
    while ((length = getline(&line, &capacity, stdin)) > 0) {
        const char *found = strstr(line, "\"name\":\"");
        char name[64] = "stranger";
        if (found) sscanf(found + 8, "%63[^\"]", name);
        printf("C was called\n");
        fflush(stdout);
        fprintf(answers, "{\"language\":\"C\",\"greeting\":\"Hello, %s!\",\"calls\":%d}\n", name, ++calls);
        fflush(answers);
    }
    free(line);
    return 0;
}
