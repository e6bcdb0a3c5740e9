import { StrictMode, useSyncExternalStore } from "react";
import { createRoot } from "react-dom/client";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { ApiError, session } from "@/api/client";
import { Login } from "@/app/Login";
import { Shell } from "@/app/Shell";
import "@/app/theme";
import "@/design/tokens.css";
import "@/design/base.css";
import "@/design/components.css";
import "@/app/shell.css";

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      retry: (failures, error) => error instanceof ApiError && error.passing && failures < 3,
      retryDelay: (attempt) => Math.min(1000 * 2 ** attempt, 15_000),
      refetchOnWindowFocus: true,
      staleTime: 500,
      placeholderData: (previous: unknown) => previous,
    },
  },
});

function App() {
  const locked = useSyncExternalStore(session.subscribe, session.locked);
  const key = useSyncExternalStore(session.subscribe, session.key);
  if (locked) return <Login />;
  return (
    <QueryClientProvider client={queries}>
      <Shell key={key} />
    </QueryClientProvider>
  );
}

session.subscribe(() => {
  if (!session.locked()) queries.clear();
});
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
